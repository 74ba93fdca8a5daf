//! Usernames from the server: those that begin with some letters, and those that are like a mistyped one.

use std::time::Duration;

use tokio::time::timeout;

use super::call::{Call, Method};
use super::{Bearer, Client, READS};
use crate::cli::user_ref;
use crate::proto::v1::{DiagnoseSignInRequest, ListUsersRequest, UserFilter, WhoAmIRequest};

/// The timeout for the search for names that are like a mistyped one.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of names to complete.
const PAGE: i32 = 100;
/// The scope that `DiagnoseSignIn` needs.
const DIAGNOSES: &str = "users.diagnose";

impl Client {
    /// The usernames that begin with `prefix`, for the completion of a command line. Empty if the server does not answer
    /// each call within `patience`, or if the caller may not read users.
    pub(crate) async fn usernames(&self, prefix: &str, patience: Duration) -> Option<Vec<String>> {
        timeout(patience, self.channel()).await.ok()?.ok()?;
        // A renewal of the login is not cut short: its refresh token works once, so the new one must be stored.
        let bearer = self.bearer(false).await.ok()?;
        let filter = Some(UserFilter { text: prefix.to_owned(), ..UserFilter::default() });
        let request = ListUsersRequest { page_size: PAGE, filter, ..ListUsersRequest::default() };
        let answer = timeout(patience, self.permitted(READS, request, bearer)).await.ok()??;
        let names = answer.users.into_iter().map(|user| user.username);
        Some(names.filter(|name| name.starts_with(prefix)).collect())
    }

    /// The usernames that are like `typed`, best first. `None` if the caller may not ask, or the search fails.
    pub(super) async fn alike(&self, typed: &str) -> Option<Vec<String>> {
        if typed.contains(':') {
            return None;
        }
        let bearer = self.bearer(false).await.ok()?;
        let request =
            DiagnoseSignInRequest { user: Some(user_ref::parse(typed).ok()?), ..DiagnoseSignInRequest::default() };
        let answer = timeout(SEARCH_TIMEOUT, self.permitted(DIAGNOSES, request, bearer)).await.ok()??;
        Some(answer.similar_usernames)
    }

    /// Makes a call if the caller has the scope. An attempt without it would write a refusal to the audit log.
    async fn permitted<C: Call>(&self, scope: &str, request: C, bearer: Option<Bearer>) -> Option<C::Answer> {
        let caller = self.send(&Method::of::<WhoAmIRequest>().ok()?, WhoAmIRequest {}, bearer.clone()).await.ok()?;
        if !caller.scopes.iter().any(|own| own == scope) {
            return None;
        }
        self.send(&Method::of::<C>().ok()?, request, bearer).await.ok()
    }
}
