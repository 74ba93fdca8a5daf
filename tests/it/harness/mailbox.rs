//! The mail that a server writes to files, and the links in it.

use latchkey::proto::v1;

use super::{Client, Harness, eventually};

/// A mail in the folder of the server.
#[derive(Debug, Clone)]
pub struct Eml {
    /// The whole file.
    pub raw: String,
    /// The same without the encoding of its parts.
    pub text: String,
}

impl Eml {
    /// The value of a header.
    pub fn header(&self, name: &str) -> String {
        let unfolded = self.raw.replace("\r\n ", " ");
        let line = unfolded.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.raw))
    }

    /// The link to this page.
    pub fn link(&self, page: &str) -> String {
        let wanted = format!("/{page}?token=");
        let mut words = self.text.split(|c: char| c.is_whitespace() || matches!(c, '"' | '<' | '>'));
        let link = words.find(|word| word.starts_with("http") && word.contains(&wanted));
        link.unwrap_or_else(|| panic!("no {wanted} in {}", self.text)).to_owned()
    }

    /// The token behind `token=` in the link to this page.
    pub fn token(&self, page: &str) -> String {
        let start = format!("/{page}?token=");
        let rest = self.text.split_once(&start).unwrap_or_else(|| panic!("no {start} in {}", self.text)).1;
        rest.chars().take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).collect()
    }
}

/// Decodes quoted-printable (RFC 2045, 6.7) as far as ASCII goes.
fn decoded(raw: &str) -> String {
    raw.replace("=\r\n", "").replace("=3D", "=")
}

impl Harness {
    /// The mails that the server has written, oldest first.
    pub fn mails(&self) -> Vec<Eml> {
        let Ok(files) = std::fs::read_dir(self.dir().join("mail")) else { return Vec::new() };
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
        let written =
            |path: &std::path::PathBuf| std::fs::metadata(path).and_then(|found| found.modified()).expect("a time");
        paths.sort_by_key(written);
        let read = |path| std::fs::read_to_string(path).expect("a mail");
        paths.into_iter().map(read).map(|raw| Eml { text: decoded(&raw), raw }).collect()
    }

    /// Waits until the message is sent, and returns its mail.
    pub async fn mail_of(&self, delivery: &v1::Delivery) -> Eml {
        let operator = self.operator().await;
        operator.delivery_in(&delivery.id, v1::DeliveryState::Accepted).await;
        let is_it = |mail: &Eml| mail.header("Message-ID").contains(&delivery.id);
        self.mails().into_iter().find(is_it).expect("the mail")
    }
}

impl Client {
    /// Waits until a message has this state.
    pub async fn delivery_in(&self, id: &str, state: v1::DeliveryState) -> v1::Delivery {
        eventually(state.as_str_name(), || async {
            let delivery = self.delivery(id).await;
            (delivery.state() == state).then_some(delivery)
        })
        .await
    }

    /// A message to a user.
    pub async fn delivery(&self, id: &str) -> v1::Delivery {
        let request = v1::GetDeliveryRequest { delivery_id: id.to_owned() };
        let answer = self.user_admin().get_delivery(request).await.expect("a delivery").into_inner();
        answer.delivery.expect("a delivery")
    }

    /// The messages to a user, newest first.
    pub async fn deliveries(&self, username: &str) -> Vec<v1::Delivery> {
        let user = Some(super::actors::named(username));
        let request = v1::ListDeliveriesRequest { user, ..Default::default() };
        self.user_admin().list_deliveries(request).await.expect("deliveries").into_inner().deliveries
    }
}
