//! Accounts: listed and shown here; created, updated, deleted, locked and unlocked in the submodules.

mod create;
mod diagnose;
mod lock;
mod update;

pub use self::create::{CreateUser, CreatedUser, FirstCredential};
pub use self::diagnose::{DiagnoseSignIn, SignInDiagnosis};
pub use self::lock::{LockEnd, LockUser, UnlockUser};
pub(super) use self::lock::{lock_account, locked_event};
pub use self::update::{DeleteUser, UpdateUser};
use super::App;
use super::writer::Unit;
use crate::domain::audit::{Event, EventType, RecordedEvent};
use crate::domain::caller::{Caller, check_rank};
use crate::domain::email::EmailAddress;
use crate::domain::id::UserId;
use crate::domain::login::Login;
use crate::domain::page::{PageRequest, Total};
use crate::domain::role::{Role, Scope};
use crate::domain::user::{User, UserRef};
use crate::domain::user_filter::{UserFilter, UserOrder};
use crate::domain::username::Username;
use crate::error::{Error, Narrowing, Result, Taken};
use crate::store::Connection;
use crate::store::audit::{About, event_recent};
use crate::store::users::{UserListing, reservation_find, user_by_ref, user_count, user_list};

/// How many failed sign-ins are shown with an account.
const RECENT_FAILURES: u64 = 5;

/// A command to list accounts.
#[derive(Debug)]
pub struct ListUsers {
    /// Selects the accounts.
    pub filter: UserFilter,
    /// The order of the list.
    pub order: UserOrder,
    /// The page to return.
    pub page: PageRequest,
    /// Whether to count all accounts that match, too.
    pub include_total: bool,
}

/// One page of users.
#[derive(Debug)]
pub struct UserPage {
    /// The rows of the page.
    pub users: Vec<User>,
    /// The token of the next page. Empty on the last page.
    pub next_page_token: String,
    /// How many accounts match in all pages, if asked for.
    pub total: Option<Total>,
}

impl App {
    /// Lists accounts.
    pub async fn list_users(&self, caller: &Caller, command: ListUsers) -> Result<UserPage> {
        let ListUsers { filter, order, page, include_total } = command;
        let selection = (&filter, order);
        let after = self.cursor(caller, &selection, &page.token)?;
        let (now, max_age) = (self.now(), self.password_max_age().await?);
        let listing = UserListing { filter: &filter, order, now, max_age };
        let narrowing = narrowing(&filter, order, include_total);
        let (rows, total) = self
            .list(caller, &narrowing, async |reader| {
                let rows = user_list(reader, &listing, after.as_ref(), page.size).await?;
                let total = if include_total { Some(user_count(reader, &listing).await?) } else { None };
                Ok((rows, total))
            })
            .await?;
        let next_page_token = self.page_token(caller, &selection, rows.next)?;
        Ok(UserPage { users: rows.rows, next_page_token, total })
    }

    /// Reads one account, and its last failed sign-ins if the caller may reset its password.
    pub async fn show_user(&self, caller: &Caller, user: &UserRef) -> Result<(User, Vec<RecordedEvent>)> {
        let reader = self.store.reader();
        let user = user_by_ref(reader, user).await?.ok_or_else(|| Error::no_user(user.field()))?;
        let failures = if may_reset(caller, &user) {
            event_recent(reader, &About::User(user.id), &[EventType::SignInFailed], RECENT_FAILURES).await?
        } else {
            Vec::new()
        };
        Ok((user, failures))
    }
}

/// Returns whether a caller may reset the password of a user, and so know why sign-ins failed.
fn may_reset(caller: &Caller, user: &User) -> bool {
    caller.scopes.contains(Scope::UsersReset) && check_rank(caller.scopes, user.scopes()).is_ok()
}

/// How to make a list shorter.
fn narrowing(filter: &UserFilter, order: UserOrder, include_total: bool) -> Vec<Narrowing> {
    let ordered = order != UserOrder::Natural;
    let ways = [
        (include_total, Narrowing::LeaveOut("include_total")),
        (ordered, Narrowing::LeaveOut("order")),
        (filter.text.is_some(), Narrowing::Lengthen("filter.text")),
        (filter.text.is_none(), Narrowing::Set("filter.text")),
    ];
    ways.into_iter().filter(|(helps, _)| *helps).map(|(_, way)| way).collect()
}

/// Fails if the username or the address is reserved, because another account than `owner` gave it up lately.
async fn check_reservations<Tx: Connection>(
    unit: &Unit<'_, Tx>,
    username: Option<&Username>,
    email: Option<&EmailAddress>,
    owner: Option<UserId>,
) -> Result<()> {
    if let Some(username) = username
        && let Some(until) = reservation_find(&unit.tx, &Login::Username(username.clone()), owner, unit.now).await?
    {
        return Err(Error::AlreadyExists(Taken::UsernameReserved(until)));
    }
    if let Some(email) = email
        && let Some(until) = reservation_find(&unit.tx, &Login::Email(email.clone()), owner, unit.now).await?
    {
        return Err(Error::AlreadyExists(Taken::EmailReserved(until)));
    }
    Ok(())
}

/// Records that the caller asked for names that may be reserved.
fn marked(event: Event, take_reserved: bool) -> Event {
    if take_reserved { event.detail("take_reserved", true) } else { event }
}

/// Sorts roles by name, without repetition.
fn sorted(roles: impl Iterator<Item = Role>) -> Vec<Role> {
    roles.collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}
