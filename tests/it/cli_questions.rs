//! What the command line asks before it changes something.

use latchkey::proto::v1;

use crate::cli::{terminal, terminal_of};
use crate::harness::actors::named;
use crate::harness::{Harness, PASSWORD};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_something_is_asked_before_and_no_is_exit_1() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    h.signed_in("ada", PASSWORD).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let (printed, code) = shell.type_at("latchkey users lock ada --for 2h", &[("[y/N] ", "n")]);
    let user = shell.bash("id -un").stdout;
    let user = String::from_utf8_lossy(&user).trim().to_owned();
    assert_eq!(code, 1, "{printed}");
    assert_eq!(
        printed,
        format!(
            "Lock ada?\n  ends   1 session, now\n  stops  signing in, and API tokens, for 2 h\n  stays  the password\n  \
             as     {user} (local)\nAre you sure? [y/N] n\nNothing was changed."
        )
    );
    let (printed, code) = shell.type_at("latchkey users delete ada", &[("[y/N] ", "")]);
    assert!(code == 1 && printed.contains("ends   the account, its password, 1 session and its API tokens, for good"));
    assert_eq!(h.operator().await.user("ada").await.state(), v1::UserState::Active);

    let (printed, code) = shell.type_at("latchkey users lock ada", &[("[y/N] ", "yes")]);
    assert!(code == 0 && printed.contains("✔ ada is locked\n  ended  1 session\n"), "{printed}");
    let (printed, code) = shell.type_at("latchkey users reset ada --temporary-password", &[]);
    assert_eq!(
        (printed.as_str(), code),
        (
            "error: the account is locked; unlock it first\n\n\
             hint: unlock it with `latchkey users unlock ada`, or reset with --unlock",
            1
        )
    );
    let (printed, code) = shell.type_at("latchkey users reset ada --temporary-password --unlock", &[("[y/N] ", "y")]);
    assert!(code == 0 && printed.contains("  lifts  the lock (locked by "), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_containment_shows_what_will_end_asks_and_says_what_the_caller_can_do_next() {
    let h = Harness::start().await;
    h.create("helen", &["helpdesk"], PASSWORD).await;
    h.person("ada", &["viewer"]).await;
    h.operator().await.api_token("ada", &["users.read"]).await;
    let shell = terminal_of(&h, "helen");
    if !shell.has("script") {
        return;
    }
    let request = v1::ResetPasswordRequest {
        user: Some(named("ada")),
        method: Some(v1::reset_password_request::Method::ReturnLink(v1::ReturnLink::default())),
        ..Default::default()
    };
    h.operator().await.reset_with(request).await.expect("a link");
    let ends = "the password, 1 session, unused links, 1 API token, device tokens and familiar places";
    let question = format!(
        "Lock ada as compromised?\n  ends   {ends}, now\n         and for good\n  \
         stops  signing in, until it is unlocked; to unlock it needs users.write\n  \
         stays  the account, its address and its roles\n  roles  viewer\n  as     helen at {}\n\
         Are you sure? [y/N] ",
        h.address()
    );
    let (printed, code) = shell.type_at("latchkey users contain ada", &[("[y/N] ", "n")]);
    assert_eq!((printed, code), (format!("{question}n\nNothing was changed."), 1));
    assert_eq!(h.operator().await.user("ada").await.state(), v1::UserState::Active);

    let (printed, code) = shell.type_at("latchkey users contain ada", &[("[y/N] ", "y")]);
    let ended = ends.replacen("the", "the old", 1).replace("unused links", "1 unused link");
    assert!(code == 0 && printed.contains(&format!("✔ ada is locked as compromised\n  ended  {ended}")), "{printed}");
    assert!(printed.contains("next: latchkey sessions list ada --ended\n        for where from"), "{printed}");
    assert!(!printed.contains("audit list"), "the helpdesk cannot read the audit log: {printed}");
    let reset = "next: latchkey users reset ada --temporary-password --unlock";
    assert!(printed.contains(reset) && printed.contains("by an operator with users.write"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_something_for_others_is_confirmed() {
    let h = Harness::start().await;
    h.create("bob", &["helpdesk"], PASSWORD).await;
    h.signed_in("bob", PASSWORD).await;
    let shell = terminal(&h);
    for ending in [
        ["sessions", "revoke", "bob"].as_slice(),
        &["tokens", "revoke", "01jq3m8d7hw4zk9x6c2v5b1n0t"],
        &["users", "update", "bob", "--remove-role", "helpdesk"],
        &["users", "require-change", "bob", "--end-sessions"],
        &["users", "lock", "bob"],
        &["users", "contain", "bob"],
        &["users", "delete", "bob"],
        &["users", "reset", "bob", "--temporary-password"],
    ] {
        let refused = shell.latchkey(ending);
        assert!(refused.code == 2 && refused.stderr.contains("hint: confirm with --yes"), "{ending:?}: {refused:?}");
    }
    if !shell.has("script") {
        return;
    }
    let (printed, code) = shell.type_at("latchkey sessions revoke bob", &[("[y/N] ", "n")]);
    assert!(code == 1 && printed.contains("End all sessions of bob?\n  ends   1 session\n"), "{printed}");
    let (printed, code) = shell.type_at("latchkey users update bob --remove-role helpdesk", &[("[y/N] ", "y")]);
    assert!(code == 0 && printed.contains("Take 1 role from bob?\n  roles  helpdesk\n"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_right_is_told_before_the_question() {
    let h = Harness::start().await;
    h.create("ada", &["viewer"], PASSWORD).await;
    h.create("bob", &[], PASSWORD).await;
    let shell = terminal_of(&h, "ada");
    if !shell.has("script") {
        return;
    }
    for (command, scope) in [
        ("users delete bob", "users.delete"),
        ("users lock bob", "users.lock"),
        ("users reset bob", "users.reset"),
        ("users reset bob --set-password", "users.reset"),
        ("users update bob --remove-role helpdesk", "users.write"),
        ("users require-change bob --end-sessions", "users.reset"),
        ("sessions revoke bob", "sessions.revoke"),
        ("tokens revoke 01jq3m8d7hw4zk9x6c2v5b1n0t", "tokens.revoke"),
    ] {
        let (printed, code) = shell.type_at(&format!("latchkey {command}"), &[]);
        assert!(code == 1 && printed.contains(&format!("error: this needs the scope {scope}")), "{command}: {printed}");
        assert!(!printed.contains("[y/N]"), "{command}: {printed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_without_an_address_offers_a_temporary_password() {
    let h = Harness::start().await;
    h.create("ada", &[], PASSWORD).await;
    let shell = terminal(&h);
    if !shell.has("script") {
        return;
    }
    let (printed, code) = shell.type_at("latchkey users reset ada", &[("[y/N] ", "y")]);
    assert!(printed.contains("! the account has no e-mail address; set one, or choose another way\n"), "{printed}");
    assert!(code == 0 && printed.contains("Reset the password of ada by a temporary password?\n"), "{printed}");
    assert!(printed.contains("Shown once."), "{printed}");
}
