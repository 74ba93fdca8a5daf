//! Mail through a real Postfix, read by another implementation.

use latchkey::proto::v1::create_user_request::Credential;
use latchkey::proto::v1::{self, DeliveryState};
use serde_json::json;

use crate::cli::terminal;
use crate::harness::actors::named;
use crate::harness::http::send;
use crate::harness::postfix::Postfix;
use crate::harness::{Client, Harness, OTHER_PASSWORD, PASSWORD};

/// As an operator types it; Postfix knows the domain as `xn--bcher-kva.example`.
const ADDRESS: &str = "grace@bücher.example";

/// Creates a user who reads German, with a name that no mail can have unencoded.
async fn grace(h: &Harness) -> Client {
    let operator = h.operator().await;
    let request = v1::CreateUserRequest {
        username: "grace".to_owned(),
        display_name: "Größe Ævar Müßig-Łukasz".to_owned(),
        email: ADDRESS.to_owned(),
        locale: "de-CH".to_owned(),
        credential: Some(Credential::Password(PASSWORD.to_owned())),
        password_change_required: Some(false),
        ..Default::default()
    };
    operator.create(request).await.expect("a user");
    operator
}

async fn reset(operator: &Client) -> v1::Delivery {
    let request = v1::ResetPasswordRequest { user: Some(named("grace")), ..Default::default() };
    operator.reset_with(request).await.expect("a reset").delivery.expect("a delivery")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postfix_delivers_a_link_that_another_implementation_reads_and_that_works() {
    let Some(postfix) = Postfix::start() else { return };
    let h = postfix.harness().await;
    let operator = grace(&h).await;
    let sent = operator.delivery_in(&reset(&operator).await.id, DeliveryState::Accepted).await;
    assert!(sent.relay_answer.starts_with("250 2.0.0 Ok: queued as "), "{sent:?}");
    assert_eq!((sent.attempts, sent.last_error.as_str(), sent.address.as_str()), (1, "", ADDRESS));
    let queued_as = sent.relay_answer.rsplit(' ').next().expect("an id");
    let shown = tokio::task::block_in_place(|| terminal(&h).latchkey(&["deliveries", "show", &sent.id])).good();
    assert!(shown.contains(&format!("  last words  {}\n", sent.relay_answer)), "{shown}");

    let [mail] = postfix.mails(1).await.try_into().expect("one mail");
    assert!(postfix.log().contains(&format!("{queued_as}: message-id=<{}@example.org>", sent.id)), "{}", postfix.log());
    assert_eq!(mail.defects, Vec::<String>::new());
    assert_eq!(mail.types, ["multipart/alternative", "text/plain", "text/html"]);
    for (name, value) in [
        ("Message-ID", format!("<{}@example.org>", sent.id)),
        ("From", "Bücher & Söhne <id@example.org>".to_owned()),
        ("To", "grace@xn--bcher-kva.example".to_owned()),
        ("Subject", "Neues Passwort wählen für Bücher & Söhne".to_owned()),
        ("Auto-Submitted", "auto-generated".to_owned()),
        ("X-Auto-Response-Suppress", "All".to_owned()),
        ("MIME-Version", "1.0".to_owned()),
        ("Delivered-To", "grace@xn--bcher-kva.example".to_owned()),
    ] {
        assert_eq!(mail.header(name), value, "{:#?}", mail.headers);
    }
    assert!(mail.header("Received").contains("ESMTPS"), "it came over TLS: {:#?}", mail.headers);
    assert!(mail.text.starts_with("Guten Tag Größe Ævar Müßig-Łukasz,\n\nöffnen Sie diesen Link"), "{}", mail.text);
    assert!(mail.html.contains("Guten Tag Größe Ævar Müßig-Łukasz") && mail.html.contains("Bücher &amp; Söhne"));

    mail.link("cancel");
    let link = mail.link("reset");
    let path = link.strip_prefix(&format!("http://{}", h.pages_address())).expect("a page of this server");
    let page = send(&h.pages_address(), "GET", path, &[], "").await;
    assert!(page.status == 200 && page.body.contains("<html lang=\"de\">"), "{page:?}");
    let token = link.split_once("token=").expect("a token").1;
    let form = [("token", token), ("password", OTHER_PASSWORD), ("repeat", OTHER_PASSWORD)];
    let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("origin", "null")];
    let done = send(&h.pages_address(), "POST", "/reset", &headers, &form).await;
    assert_eq!(done.status, 303, "{}", done.body);
    h.signed_in("grace", OTHER_PASSWORD).await;

    let mut subjects: Vec<_> = postfix.mails(2).await.iter().map(|mail| mail.header("Subject").to_owned()).collect();
    subjects.retain(|subject| !subject.starts_with("Neues"));
    assert_eq!(subjects, ["Ihr Passwort für Bücher & Söhne wurde geändert"], "the notice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_postfix_does_not_know_fails_and_the_right_one_gets_the_next_mail() {
    let Some(postfix) = Postfix::start() else { return };
    let h = postfix.harness().await;
    let operator = grace(&h).await;
    let moves_to = async |address: &str| {
        let request = json!({ "user": { "username": "grace" }, "email": address });
        operator.call("UserAdmin/UpdateUser", request).await.expect("an address");
    };
    moves_to("garce@bücher.example").await;
    let sent = operator.delivery_in(&reset(&operator).await.id, DeliveryState::Failed).await;
    assert!(
        sent.last_error.contains("550 5.1.1 <garce@xn--bcher-kva.example>: Recipient address rejected"),
        "{sent:?}"
    );
    assert_eq!((sent.attempts, sent.relay_answer.as_str(), sent.next_attempt_time), (1, "", None));

    moves_to(ADDRESS).await;
    let request = v1::ResendDeliveryRequest { delivery_id: sent.id, ..Default::default() };
    let again = operator.user_admin().resend_delivery(request).await.expect("at once").into_inner().delivery.unwrap();
    operator.delivery_in(&again.id, DeliveryState::Accepted).await;
    // The other one is the notice that the address has changed.
    let mails = postfix.mails(2).await;
    let sent_again = format!("<{}@example.org>", again.id);
    assert_eq!(mails.iter().filter(|mail| mail.header("Message-ID") == sent_again).count(), 1, "{mails:#?}");
}
