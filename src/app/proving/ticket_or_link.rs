//! Proves a ticket or a link, and hashes the new password that comes with it. A ticket has a budget of its own
//! ([`TicketPurpose::max_tries`]); the hashes of a link are limited.

use super::Entry;
use super::new_password::reused;
use crate::app::App;
use crate::app::turns::Admitted;
use crate::domain::caller::Caller;
use crate::domain::credentials::UserWithCredentials;
use crate::domain::link::Link;
use crate::domain::password::{PasswordFault, PlainPassword};
use crate::domain::password_hash::PasswordHash;
use crate::domain::reason::Reason;
use crate::domain::second_factor::SecondFactorCode;
use crate::domain::secret::{Digest32, LinkSecret, TicketSecret};
use crate::domain::ticket::{Ticket, TicketPurpose};
use crate::error::{Error, Result, Unauthenticated};
use crate::store::throttle::Account;
use crate::store::tickets::{ticket_find, ticket_try};
use crate::store::users::user_with_credentials;

/// A ticket that was live, with the hash of the new password that came with it.
pub(in crate::app) struct TicketProof {
    /// The digest of the ticket's secret.
    pub(in crate::app) digest: Digest32,
    /// The ticket.
    pub(in crate::app) ticket: Ticket,
    /// The account as it was when the new password was compared.
    pub(in crate::app) account: UserWithCredentials,
    /// The hash of the new password.
    pub(in crate::app) hash: PasswordHash,
    /// Held until the transaction ends.
    _admitted: Admitted,
}

/// A link that worked, with the hash of the new password that came with it.
pub(in crate::app) struct LinkProof {
    /// The link.
    pub(in crate::app) link: Link,
    /// The hash of the new password.
    pub(in crate::app) hash: PasswordHash,
    /// Held until the transaction ends.
    _admitted: Admitted,
}

impl App {
    /// Proves a ticket and hashes the new password, which must differ from the old one. Whatever is hashed costs one of the
    /// ticket's tries; a new password that breaks a rule costs none. A failure counts against the source and is recorded.
    ///
    /// Fails with [`Unauthenticated::TicketInvalid`] if the ticket is invalid, has no tries left, or its account is locked.
    pub(in crate::app) async fn prove_ticket(
        &self,
        entry: Entry<'_>,
        secret: Option<&TicketSecret>,
        new_password: Result<PlainPassword, PasswordFault>,
    ) -> Result<TicketProof> {
        let caller = entry.caller;
        let Some((digest, ticket, account)) = self.live_ticket(secret).await? else {
            return self.ticket_invalid(caller).await;
        };
        let admitted = self.admit_to_hash(entry, Some(Account::Known(ticket.user_id).key())).await?;
        let words = self.words_of(&account.user);
        let new_password = self.accept(&admitted.permit, "new_password", new_password, words).await?;
        if !ticket_try(self.store.autocommit()?, &digest, ticket.purpose, self.now()).await? {
            return self.ticket_invalid(caller).await;
        }
        let (permit, typed) = (&admitted.permit, new_password.as_plain());
        if self.verify_unblocked(caller, permit, Some(typed), Some(&account)).await?
            || self.was_used_before(permit, typed, &account).await?
        {
            self.secret_failed(caller, Some(&account.user), Reason::PasswordRejected).await?;
            return Err(reused("new_password"));
        }
        let hash = self.gate.hasher.hash(permit, new_password.into_plain()).await?;
        Ok(TicketProof { digest, ticket, account, hash, _admitted: admitted })
    }

    /// Proves a link and hashes the new password, which must differ from the old one. What breaks a rule is not hashed. A link
    /// never dies of wrong passwords, since it has no password to guess; its hashes are limited.
    ///
    /// Fails with [`Unauthenticated::LinkInvalid`] if the link does not work.
    pub(in crate::app) async fn prove_link(
        &self,
        entry: Entry<'_>,
        secret: Option<&LinkSecret>,
        new_password: Result<PlainPassword, PasswordFault>,
        code: Option<&SecondFactorCode>,
    ) -> Result<LinkProof> {
        let caller = entry.caller;
        let (link, user) = self.live_link(caller, secret).await?;
        if !link.purpose.sets_password() {
            return Err(Unauthenticated::LinkInvalid.into());
        }
        let admitted = self.admit_to_hash(entry, Some(Account::Known(user.id).key())).await?;
        let words = self.words_of(&user);
        let new_password = self.accept(&admitted.permit, "new_password", new_password, words).await?;
        App::check_code_sent(&user, code)?;
        self.gate.take_link(link.id)?;
        let (permit, typed) = (&admitted.permit, new_password.as_plain());
        let account = user_with_credentials(self.store.reader(), user.id).await?;
        let account = account.ok_or(Error::Unauthenticated(Unauthenticated::LinkInvalid))?;
        let has_password = account.credentials.password.is_some();
        if (has_password && self.verify_unblocked(caller, permit, Some(typed), Some(&account)).await?)
            || self.was_used_before(permit, typed, &account).await?
        {
            return Err(reused("new_password"));
        }
        let hash = self.gate.hasher.hash(permit, new_password.into_plain()).await?;
        Ok(LinkProof { link, hash, _admitted: admitted })
    }

    pub(in crate::app) async fn live_ticket(
        &self,
        secret: Option<&TicketSecret>,
    ) -> Result<Option<(Digest32, Ticket, UserWithCredentials)>> {
        let Some(secret) = secret else { return Ok(None) };
        let (reader, now, digest) = (self.store.reader(), self.now(), secret.digest());
        let found = ticket_find(reader, &digest, TicketPurpose::PasswordChange, now).await?;
        let Some(ticket) = found.filter(|ticket| ticket.tries < ticket.purpose.max_tries()) else { return Ok(None) };
        let account = user_with_credentials(reader, ticket.user_id).await?;
        let account = account.filter(|account| account.user.lock(now).is_none());
        Ok(account.map(|account| (digest, ticket, account)))
    }

    /// Counts a ticket that does not exist against the source.
    pub(in crate::app) async fn ticket_invalid<T>(&self, caller: &Caller) -> Result<T> {
        self.secret_failed(caller, None, Reason::TicketInvalid).await?;
        Err(Unauthenticated::TicketInvalid.into())
    }

    /// Does the same with a link.
    pub(in crate::app) async fn link_invalid<T>(&self, caller: &Caller) -> Result<T> {
        self.secret_failed(caller, None, Reason::TicketInvalid).await?;
        Err(Unauthenticated::LinkInvalid.into())
    }
}
