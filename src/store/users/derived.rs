//! What other tables say of an account: its throttle, its pending link, whether mail to it failed, its second factor,
//! and the policy.
//!
//! Each is a subquery, so that every fact is kept in one place. Partial indexes hold the few rows that a subquery looks at; its
//! condition is that of the index, word for word.

use sea_orm::sea_query::{Condition, Expr, Query};
use sea_orm::{ColumnTrait, EntityTrait, QuerySelect, Select};

use crate::domain::time::Timestamp;
use crate::store::entity::{link, user};

/// A column that is added to those of the account.
pub(super) struct Derived {
    /// Its name.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: &'static str,
    what: &'static str,
    from: &'static str,
}

/// The throttle, over all budgets of the account; the link that works longest; when mail to the address of today failed; the
/// second factor; and the policy.
pub(super) const DERIVED: [Derived; 7] = [
    Derived { name: "throttle_failures", kind: "INTEGER", what: "MAX(throttle.failures)", from: THROTTLES },
    Derived { name: "throttle_until", kind: "BIGINT", what: "MAX(throttle.waits_until)", from: THROTTLES },
    Derived { name: "familiar_until", kind: "BIGINT", what: FAMILIAR_UNTIL, from: THROTTLES },
    Derived { name: "pending_link", kind: "TEXT", what: PENDING_LINK, from: LINK },
    Derived { name: "mail_failed_at", kind: "BIGINT", what: "MAX(delivery.updated_at)", from: FAILED },
    Derived { name: "second_factor", kind: "TEXT", what: SECOND_FACTOR, from: TOTP },
    Derived { name: "policy", kind: "TEXT", what: POLICY, from: "FROM sign_in_policy" },
];

/// The budgets that throttle the account.
const THROTTLES: &str = r#"FROM throttle WHERE throttle.account_id = "user".id AND throttle.waits_until IS NOT NULL"#;

const FAMILIAR_UNTIL: &str = "MAX(CASE WHEN throttle.id LIKE 'f%' THEN throttle.waits_until END)";

/// The link that works longest, of those that were not used. It may have expired.
const LINK: &str = r#"FROM link WHERE link.user_id = "user".id AND link.ended_at IS NULL
    ORDER BY link.expires_at DESC, link.id DESC LIMIT 1"#;

/// Purpose, end and message of the link, with spaces between. Three subqueries would make a page of a list slower by a tenth.
const PENDING_LINK: &str = "link.purpose || ' ' || link.expires_at || ' '
    || COALESCE((SELECT MAX(delivery.id) FROM delivery WHERE delivery.link_id = link.id), '')";

/// The messages to the address of today that were given up, if none was accepted since.
const FAILED: &str = r#"FROM delivery WHERE delivery.user_id = "user".id AND delivery.address_key = "user".email_key
    AND (delivery.state = 5 OR (delivery.state = 6 AND delivery.attempts > 0))
    AND NOT EXISTS (SELECT 1 FROM delivery AS later WHERE later.user_id = delivery.user_id
        AND later.updated_at >= delivery.updated_at AND later.address_key = delivery.address_key AND later.state = 4)"#;

/// When the authenticator was confirmed, the wrong codes since the last right one, until when codes are refused (0: not at all),
/// and the recovery codes that are left, with spaces between.
const SECOND_FACTOR: &str = "totp.enrolled_at || ' ' || totp.failures || ' ' || COALESCE(totp.waits_until, 0) || ' '
    || (SELECT COUNT(*) FROM recovery_code WHERE recovery_code.user_id = totp.user_id)";

/// The version of the policy, how many old passwords and how soon a change it refuses, whether sign-ins look for leaked passwords,
/// since when they judge passwords that are older than the rules (0: they do not), whether it asks everybody for a second factor, from when on (0: at once), the maximum age of passwords, when that was set, over
/// which time it is rolled out, the warnings after a hyphen, the same of the maximum inactivity, and the roles that are asked, with spaces between.
const POLICY: &str = "sign_in_policy.version || ' ' || sign_in_policy.password_history || ' '
    || sign_in_policy.password_min_age || ' ' || sign_in_policy.password_check_breached || ' '
    || COALESCE(sign_in_policy.password_judged_since, 0) || ' '
    || sign_in_policy.second_factor_required || ' '
    || COALESCE(sign_in_policy.second_factor_from, 0) || ' ' || sign_in_policy.password_max_age || ' '
    || sign_in_policy.password_max_age_set_at || ' ' || sign_in_policy.password_rollout || ' -'
    || sign_in_policy.password_warnings || ' ' || sign_in_policy.max_inactivity || ' '
    || sign_in_policy.max_inactivity_set_at || ' -' || sign_in_policy.inactivity_warnings || ' '
    || sign_in_policy.second_factor_roles";

const TOTP: &str = r#"FROM totp WHERE totp.user_id = "user".id"#;

/// Adds the derived columns, each with a prefix.
pub(super) fn with_derived<E: EntityTrait>(select: Select<E>, prefix: &str) -> Select<E> {
    DERIVED.iter().fold(select, |select, Derived { name, what, from, .. }| {
        select.expr_as(Expr::cust(format!("(SELECT {what} {from})")), format!("{prefix}{name}"))
    })
}

/// Selects the accounts with a link that works at `now` and was not used.
pub(super) fn link_pending(now: Timestamp) -> Condition {
    let mut ids = Query::select();
    ids.column(link::Column::UserId)
        .from(link::Entity)
        .and_where(Expr::cust("link.ended_at IS NULL"))
        .and_where(link::Column::ExpiresAt.gt(now.as_micros()));
    Condition::all().add(user::Column::Id.in_subquery(ids))
}

/// Selects the accounts to whose address of today mail failed.
pub(super) fn mail_failed() -> Condition {
    // The first condition finds the few candidates by their index.
    let candidates = r#""user".id IN (SELECT delivery.user_id FROM delivery
        WHERE (delivery.state = 5 OR (delivery.state = 6 AND delivery.attempts > 0)))"#;
    Condition::all().add(Expr::cust(candidates)).add(Expr::cust(format!("EXISTS (SELECT 1 {FAILED})")))
}

/// Selects the accounts with a second factor.
pub(super) fn second_factor_enrolled() -> Condition {
    Condition::all().add(Expr::cust(r#""user".id IN (SELECT totp.user_id FROM totp)"#))
}

/// Selects the people without a second factor whom the policy asks for one, now or later.
pub(super) fn second_factor_missing() -> Condition {
    let asked = r#"EXISTS (SELECT 1 FROM sign_in_policy WHERE sign_in_policy.second_factor_required = 1
        OR EXISTS (SELECT 1 FROM user_role WHERE user_role.user_id = "user".id
            AND ' ' || sign_in_policy.second_factor_roles || ' ' LIKE '% ' || user_role.role || ' %'))"#;
    Condition::all().add(Expr::cust(r#""user".kind = 1"#)).add(second_factor_enrolled().not()).add(Expr::cust(asked))
}
