//! Headless Chromium, driven by `WebDriver` (a W3C standard).

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{eventually, http};

/// The key under which `WebDriver` writes the id of an element.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// The ratio of the luminances of two colours (WCAG 2.2, 1.4.3), for each text that is shown; the least one.
const LEAST_CONTRAST: &str = "
    const channel = (c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const ground = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const found = parts(getComputedStyle(at).backgroundColor);
            if (found.length < 4 || found[3] > 0) return found;
        }
        return [255, 255, 255];
    };
    let least = 21;
    for (const element of document.body.querySelectorAll('*')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!own || !element.offsetParent) continue;
        const [a, b] = [light(parts(getComputedStyle(element).color)), light(ground(element))];
        least = Math.min(least, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
    }
    return least;";

/// Widths in pixels, each with a factor: small telephones, and large text.
pub const SCREENS: [(u32, u32); 5] = [(320, 1), (360, 1), (320, 2), (1280, 1), (640, 2)];

/// A browser with one window. It ends when dropped.
pub struct Browser {
    driver: Child,
    /// Address of the driver, `127.0.0.1:…`.
    address: String,
    session: String,
    profile: TempDir,
}

/// Starts the driver, and returns the address at which it listens.
fn start_driver() -> Option<(Child, String)> {
    let started = Command::new("chromedriver").arg("--port=0").stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let mut driver = started.ok()?;
    let mut lines = BufReader::new(driver.stdout.take()?).lines().map_while(Result::ok);
    let port = lines.find_map(|line| line.split_once("successfully on port ").map(|(_, port)| port.to_owned()));
    let Some(port) = port else {
        driver.wait().ok();
        return None;
    };
    Some((driver, format!("127.0.0.1:{}", port.trim_end_matches('.'))))
}

impl Browser {
    /// Starts a browser. Returns `None` if Chromium or its driver is not there: says so, and fails with `TEST_REQUIRE_ALL`.
    pub async fn start(runs_scripts: bool) -> Option<Browser> {
        // The driver takes a free port of IPv4 and the same of IPv6, and ends if another process has that one.
        let Some((driver, address)) = (0..5).find_map(|_| start_driver()) else {
            assert!(std::env::var("TEST_REQUIRE_ALL").is_err(), "TEST_REQUIRE_ALL: chromedriver does not start");
            eprintln!("skipped: chromedriver is missing");
            return None;
        };
        let profile = tempfile::tempdir().expect("a directory");
        let mut browser = Browser { driver, address, session: String::new(), profile };
        let options = json!({ "args": [
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            format!("--user-data-dir={}", browser.profile.path().display()),
        ]});
        let wanted = json!({ "capabilities": { "alwaysMatch": { "goog:chromeOptions": options } } });
        let session = browser.call("POST", "/session", wanted).await;
        session["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        if !runs_scripts {
            browser.devtools("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
        }
        Some(browser)
    }

    async fn call(&self, method: &str, path: &str, body: Value) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = http::send(&self.address, method, path, &[("content-type", "application/json")], &body).await;
        let value: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(answer.status, 200, "{path}: {value}");
        value["value"].clone()
    }

    async fn command(&self, method: &str, path: &str, body: Value) -> Value {
        self.call(method, &format!("/session/{}/{path}", self.session), body).await
    }

    /// Runs a command of the `DevTools` protocol.
    pub async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.command("POST", "goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// Runs a script and returns its value, also where those of the page do not run.
    pub async fn script(&self, script: &str) -> Value {
        self.command("POST", "execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Prefers light or dark pages.
    pub async fn prefer(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features).await;
    }

    /// Has a screen of this width and factor.
    pub async fn resize(&self, (width, zoom): (u32, u32)) {
        let metrics = json!({ "width": width, "height": 700, "deviceScaleFactor": zoom, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics).await;
    }

    /// Asserts that every text of the page has contrast, and that nothing is cut off.
    pub async fn is_legible(&self, page: &str) {
        let overhang = self.script("return document.documentElement.scrollWidth - innerWidth").await;
        assert!(overhang.as_i64().is_some_and(|pixels| pixels <= 0), "{page}: {overhang}");
        let contrast = self.script(LEAST_CONTRAST).await;
        assert!(contrast.as_f64().is_some_and(|ratio| ratio >= 4.5), "{page}: {contrast}");
    }

    /// A picture of the whole page, as PNG.
    pub async fn picture(&self) -> Vec<u8> {
        let size = "const { scrollWidth, scrollHeight } = document.documentElement; return [scrollWidth, scrollHeight]";
        let size = self.script(size).await;
        let clip = json!({ "x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1 });
        let whole = json!({ "captureBeyondViewport": true, "clip": clip });
        let taken = self.devtools("Page.captureScreenshot", whole).await;
        data_encoding::BASE64.decode(taken["data"].as_str().expect("a picture").as_bytes()).expect("base64")
    }

    /// Opens a URL.
    pub async fn open(&self, url: &str) {
        self.command("POST", "url", json!({ "url": url })).await;
    }

    /// The URL of the page.
    pub async fn url(&self) -> String {
        self.command("GET", "url", Value::Null).await.as_str().expect("a URL").to_owned()
    }

    /// The title of the page.
    pub async fn title(&self) -> String {
        self.command("GET", "title", Value::Null).await.as_str().expect("a title").to_owned()
    }

    /// Waits for a page with this beginning of a title.
    pub async fn reaches(&self, title: &str) {
        eventually(title, || async { self.title().await.starts_with(title).then_some(()) }).await;
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.command("POST", "element", json!({ "using": "css selector", "value": selector })).await;
        found[ELEMENT].as_str().expect("an element").to_owned()
    }

    /// The text of an element, as it is seen.
    pub async fn text(&self, selector: &str) -> String {
        let element = self.element(selector).await;
        let text = self.command("GET", &format!("element/{element}/text"), Value::Null).await;
        text.as_str().expect("a text").to_owned()
    }

    /// A property of an element.
    pub async fn property(&self, selector: &str, name: &str) -> Value {
        let element = self.element(selector).await;
        self.command("GET", &format!("element/{element}/property/{name}"), Value::Null).await
    }

    /// The name that a screen reader says.
    pub async fn spoken(&self, selector: &str) -> String {
        let element = self.element(selector).await;
        let label = self.command("GET", &format!("element/{element}/computedlabel"), Value::Null).await;
        label.as_str().expect("a label").to_owned()
    }

    /// Types a text.
    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.command("POST", &format!("element/{element}/value"), json!({ "text": text })).await;
    }

    /// Presses a key in the element that has the focus.
    pub async fn press(&self, key: char) {
        let actions = json!([{ "type": "key", "id": "keys", "actions": [
            { "type": "keyDown", "value": key.to_string() }, { "type": "keyUp", "value": key.to_string() },
        ]}]);
        self.command("POST", "actions", json!({ "actions": actions })).await;
    }

    /// Clicks on an element.
    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.command("POST", &format!("element/{element}/click"), json!({})).await;
    }

    /// The id of the element that has the focus, or else its class.
    pub async fn focus(&self) -> String {
        let active = self.command("GET", "element/active", Value::Null).await;
        let element = active[ELEMENT].as_str().expect("an element").to_owned();
        for name in ["id", "className"] {
            let value = self.command("GET", &format!("element/{element}/property/{name}"), Value::Null).await;
            if let Some(value) = value.as_str().filter(|value| !value.is_empty()) {
                return value.to_owned();
            }
        }
        String::new()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Chromium would go on without its driver.
        if let Ok(mut stream) = std::net::TcpStream::connect(&self.address) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(10)));
            let _ = write!(
                stream,
                "DELETE /session/{} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
                self.session
            );
            let _ = stream.read_to_end(&mut Vec::new());
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}
