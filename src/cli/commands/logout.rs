//! `latchkey logout`: ends the session and forgets the login.

use clap::Args;

use crate::cli::args::Confirmation;
use crate::cli::client::login::LoginStore;
use crate::cli::error::{Error, Exit};
use crate::cli::setting::Setting;
use crate::proto::v1::RevokeSessionRequest;

const HELP: &str = "\
Examples:
  latchkey logout
  latchkey logout --forget";

/// End the session of `latchkey login` and forget it.
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct Logout {
    /// Only forget the login here: the server is gone, or cannot be reached.
    #[arg(long)]
    forget: bool,
    #[command(flatten)]
    confirmation: Confirmation,
}

impl Logout {
    /// Ends the session and removes the login. A session that has ended already is no error. If the server cannot be reached,
    /// or refuses for another reason, the login stays: without it the session could not be ended any more.
    pub(crate) async fn run(self, setting: &Setting, store: &LoginStore) -> Result<(), Error> {
        if self.forget && setting.show_grpcurl {
            return Err(Error::usage("--forget makes no call: there is nothing to show"));
        }
        if self.forget {
            let was = store.remove()?;
            return setting.screen.done(if was { "the login is forgotten" } else { "there was no login" });
        }
        let login = store.read()?.ok_or_else(|| Error::stopped(Exit::Stopped, "you are not signed in"))?;
        let name = login.username.clone();
        let cli = setting.member(store, login)?;
        match cli.client.call(RevokeSessionRequest::default()).await {
            Ok(_) => {}
            Err(error) if error.is_signed_out() => {}
            Err(error @ Error::Stopped(_)) if error.exit() == Exit::Unexpected => {
                return Err(error.hint("`latchkey logout --forget` forgets the login without ending its session"));
            }
            Err(error) => return Err(error),
        }
        store.remove()?;
        setting.screen.done(format!("{name} is signed out of {}", cli.client.target().place()))
    }
}
