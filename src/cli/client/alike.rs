//! Usernames from the server: those that begin with some letters, and those that are like a mistyped one.

use std::time::Duration;

use tokio::time::timeout;

use super::call::Method;
use super::{Bearer, Client, READS};
use crate::proto::v1::{ListUsersRequest, ListUsersResponse, User, UserFilter, WhoAmIRequest};

/// The timeout for the search for names that are like a mistyped one.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(2);
/// The number of names to propose.
const PROPOSALS: usize = 3;
/// The number of accounts to read for each beginning.
const PAGE: i32 = 100;

impl Client {
    /// The usernames that begin with `prefix`, for the completion of a command line. Empty if the server does not answer
    /// each call within `patience`, or if the caller may not read users.
    pub(crate) async fn usernames(&self, prefix: &str, patience: Duration) -> Option<Vec<String>> {
        timeout(patience, self.channel()).await.ok()?.ok()?;
        // A renewal of the login is not cut short: its refresh token works once, so the new one must be stored.
        let bearer = self.bearer(false).await.ok()?;
        let users = timeout(patience, async {
            if self.may_read(bearer.clone()).await { self.beginning_with(prefix, bearer).await } else { None }
        });
        let users = users.await.ok()??.into_iter().map(|user| user.username);
        Some(users.filter(|name| name.starts_with(prefix)).collect())
    }

    /// The usernames that are like `typed`, best first. `None` if the caller may not read users, or the search fails.
    pub(super) async fn alike(&self, typed: &str) -> Option<Vec<String>> {
        if typed.contains(':') {
            return None;
        }
        let bearer = self.bearer(false).await.ok()?;
        let search = async {
            if !self.may_read(bearer.clone()).await {
                return None;
            }
            for prefix in prefixes(typed) {
                let names = nearest(typed, &self.beginning_with(&prefix, bearer.clone()).await?);
                if !names.is_empty() {
                    return Some(names);
                }
            }
            Some(Vec::new())
        };
        timeout(SEARCH_TIMEOUT, search).await.ok()?
    }

    /// Returns whether the caller may read users. An attempt without the right would write a refusal to the audit log.
    async fn may_read(&self, bearer: Option<Bearer>) -> bool {
        let Ok(method) = Method::of::<WhoAmIRequest>() else { return false };
        let answer = self.send(&method, WhoAmIRequest {}, bearer).await;
        answer.is_ok_and(|answer| answer.scopes.iter().any(|scope| scope == READS))
    }

    async fn beginning_with(&self, prefix: &str, bearer: Option<Bearer>) -> Option<Vec<User>> {
        let method = Method::of::<ListUsersRequest>().ok()?;
        let filter = UserFilter { text: prefix.to_owned(), ..UserFilter::default() };
        let request = ListUsersRequest { page_size: PAGE, filter: Some(filter), ..ListUsersRequest::default() };
        let answer: ListUsersResponse = self.send(&method, request, bearer).await.ok()?;
        Some(answer.users)
    }
}

/// Shorter and shorter beginnings of a name, down to the empty one.
fn prefixes(typed: &str) -> impl Iterator<Item = String> {
    let symbols: Vec<char> = typed.chars().collect();
    let lengths = std::iter::successors(Some(symbols.len()), |length| (*length > 0).then(|| length * 2 / 3));
    lengths.map(move |length| symbols.iter().take(length).collect())
}

/// The usernames of those accounts whose username, address or name is like `typed`.
fn nearest(typed: &str, users: &[User]) -> Vec<String> {
    let typed = typed.to_lowercase();
    let most = (typed.chars().count() / 3).max(1);
    let distance = |user: &User| {
        let name = user.display_name.to_lowercase();
        let words = name.split_whitespace().map(str::to_owned);
        let all = words.chain([user.username.clone(), user.email.to_lowercase()]).filter(|text| !text.is_empty());
        all.map(|text| apart(&typed, &text)).min().unwrap_or(usize::MAX)
    };
    let mut near: Vec<(usize, &str)> = users
        .iter()
        .map(|user| (distance(user), user.username.as_str()))
        .filter(|(distance, name)| *distance <= most && *name != typed)
        .collect();
    near.sort_unstable();
    near.into_iter().take(PROPOSALS).map(|(_, name)| name.to_owned()).collect()
}

/// The number of typing errors between two texts. The beginning of a text is one error away from it.
fn apart(typed: &str, text: &str) -> usize {
    let length = typed.chars().count();
    let beginnings = [length.saturating_sub(1), length, length + 1].map(|length| text.chars().take(length).collect());
    let to_beginning = beginnings.iter().map(|beginning: &String| 1 + strsim::osa_distance(typed, beginning));
    to_beginning.chain([strsim::osa_distance(typed, text)]).min().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(username: &str, display_name: &str) -> User {
        User { username: username.into(), display_name: display_name.into(), ..User::default() }
    }

    #[test]
    fn beginnings_get_shorter() {
        assert_eq!(prefixes("grcae").collect::<Vec<_>>(), ["grcae", "grc", "gr", "g", ""]);
        assert_eq!(prefixes("").collect::<Vec<_>>(), [""]);
    }

    #[test]
    fn the_nearest_names_come_first_and_the_typed_one_never() {
        let users = [user("grace", "Grace Hopper"), user("gracie", ""), user("alan", "Alan Turing"), user("grcae", "")];
        assert_eq!(nearest("grcae", &users), ["grace"]);
        assert_eq!(nearest("Grac", &users), ["grace", "gracie"]);
        assert_eq!(nearest("hoper", &users), ["grace"]);
        assert_eq!(nearest("turing", &users), ["alan"]);
        let long = [user("maximiliana.wintersberger-oeztuerk", "")];
        assert_eq!(nearest("maximilana.wintersberger", &long), ["maximiliana.wintersberger-oeztuerk"]);
        assert!(nearest("mallory", &users).is_empty());
    }
}
