//! Lists are read in order from an index.

use std::time::Duration;

use sea_orm::{ConnectionTrait as _, EntityTrait as _, QueryFilter as _};

use super::by_concern::in_order;
use super::text::ids_with_term;
use super::*;
use crate::domain::id::UserId;
use crate::domain::password_age::TooOld;
use crate::domain::profile::SearchText;
use crate::domain::waves::Wave;
use crate::store::users::query_plan::{empty_store, plan};

type Outcome = std::result::Result<(), Box<dyn std::error::Error>>;

#[tokio::test]
async fn each_concern_is_read_in_order_from_an_index_of_its_own() -> Outcome {
    let (_dir, store) = empty_store().await?;
    let now = Timestamp::from_micros(1_000_000);
    let too_old = TooOld { changed_by: now, set_at: now, wave: Wave::Below(UserId::from_bytes([7; 16])) };
    let at = At { now, too_old: Some(too_old) };
    for (concern, index, cursor) in [
        (Concern::LockedWithoutEnd, "user_locked_for_good", Cursor::Text("ada".to_owned(), "x".to_owned())),
        (Concern::TemporaryPasswordExpired, "user_password_expiry", Cursor::Time(5, "x".to_owned())),
        (Concern::PasswordEnded, "user_password_ended", Cursor::Text("ada".to_owned(), "x".to_owned())),
        (Concern::Pending, "user_pending", Cursor::Text("ada".to_owned(), "x".to_owned())),
        (Concern::LockedWithEnd, "user_lock_expiry", Cursor::Time(5, "x".to_owned())),
        (Concern::TemporaryPassword, "user_password_expiry", Cursor::Time(5, "x".to_owned())),
        (Concern::ChangeRequired, "user_change_required", Cursor::Text("ada".to_owned(), "x".to_owned())),
        (Concern::PasswordExpired, "user_password_age", Cursor::Time(5, "x".to_owned())),
    ] {
        for after in [None, Some(&cursor)] {
            let plan = plan(&store, in_order(rows(), concern, after, at).limit(51)).await?;
            let first = plan.first().map(String::as_str).unwrap_or_default();
            assert!(first.contains(&format!("INDEX {index}")), "{concern:?} after {after:?}: {plan:#?}");
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{concern:?} after {after:?}: {plan:#?}");
        }
    }
    // A count has no order that leads to the index.
    for (concern, index) in [
        (Concern::PasswordEnded, "user_password_ended"),
        (Concern::Pending, "user_pending"),
        (Concern::ChangeRequired, "user_change_required"),
        (Concern::PasswordExpired, "user_password_age"),
    ] {
        let count = user::Entity::find().filter(holds(concern, at)).limit(10_001);
        let plan = plan(&store, count).await?;
        let first = plan.first().map(String::as_str).unwrap_or_default();
        assert!(first.contains(&format!("INDEX {index}")), "{concern:?}: {plan:#?}");
    }
    let throttled = plan(&store, in_order(rows(), Concern::Throttled, None, at).limit(51)).await?;
    assert!(!throttled.iter().any(|step| step.starts_with("SCAN user")), "{throttled:#?}");
    Ok(())
}

#[tokio::test]
async fn a_count_stops_at_its_bound_and_a_text_is_broad_beyond_ten_thousand_terms() -> Outcome {
    let (_dir, store) = empty_store().await?;
    let columns = "id, kind, username, labels, roles, password_kind, change_demanded, version, created_at, updated_at";
    let user = format!(r#"INSERT INTO "user" ({columns}) VALUES ('1', 1, 'ada', '{{}}', '', 1, FALSE, 1, 1, 1)"#);
    let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10001)";
    let terms = format!("{numbers} INSERT INTO user_term (term, user_id, shared) SELECT 'made' || i, '1', 0 FROM n");
    for statement in [user, terms] {
        store.autocommit()?.execute_unprepared(&statement).await?;
    }
    let (made, narrow) = (SearchText::parse("made")?, SearchText::parse("made1000")?);
    let (Some(made), Some(narrow)) = (made, narrow) else { return Err("a text".into()) };
    assert_eq!(count_at_most(store.reader(), ids_with_term(&made), 7).await?, 7);
    assert_eq!(count_at_most(store.reader(), ids_with_term(&narrow), 7).await?, 3);
    assert!(is_broad(store.reader(), &made).await? && !is_broad(store.reader(), &narrow).await?);
    Ok(())
}

const BROAD: Plan = Plan { search: Search::ByAccount { is_broad: true }, many_expired: true };

#[tokio::test]
async fn a_list_of_many_expired_passwords_is_read_in_its_own_order() -> Outcome {
    let (_dir, store) = empty_store().await?;
    let day = Duration::from_hours(24);
    let (set_at, now) = (Timestamp::from_micros(0), Timestamp::from_micros(0).saturating_add(day * 100));
    let max_age = Some(MaxAge { age: day * 90, set_at, lead: day * 14, rollout: day * 300 });
    let expired = UserFilter { flags: vec![UserFlag::PasswordExpired], ..UserFilter::default() };
    let then = UserFilter { abilities: vec![AbilityKind::YesThen], ..UserFilter::default() };
    let size = PageSize::parse(50).ok_or("a page size")?;
    for (filter, order) in [
        (&expired, UserOrder::Username),
        (&expired, UserOrder::CreatedAtDescending),
        (&then, UserOrder::Username),
        (&then, UserOrder::CreatedAtDescending),
    ] {
        let listing = UserListing { filter, order, now, max_age };
        for many_expired in [true, false] {
            let plan = plan(&store, listing.select(Plan { search: Search::None, many_expired }, None, size)).await?;
            let by_age = plan.iter().any(|step| step.contains("INDEX user_password_age"));
            assert_eq!(by_age, !many_expired, "{filter:?} {order:?}: {plan:#?}");
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_broad_text_in_an_order_of_its_own_is_read_in_that_order() -> Outcome {
    let (_dir, store) = empty_store().await?;
    let filter = UserFilter { text: SearchText::parse("a")?, ..UserFilter::default() };
    let size = PageSize::parse(50).ok_or("a page size")?;
    let time = Cursor::Time(5, "x".to_owned());
    let name = Cursor::Text("ada".to_owned(), "x".to_owned());
    for (order, cursor) in [(UserOrder::CreatedAtDescending, time), (UserOrder::Username, name)] {
        let listing = UserListing { filter: &filter, order, now: Timestamp::from_micros(1_000_000), max_age: None };
        for after in [None, Some(&cursor)] {
            let plan = plan(&store, listing.select(BROAD, after, size)).await?;
            let first = plan.first().map(String::as_str).unwrap_or_default();
            assert!(first.contains(" user USING ") && first.contains("INDEX"), "{order:?}: {plan:#?}");
            assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{order:?}: {plan:#?}");
            assert!(plan.iter().any(|step| step.contains("user_term_of_user")), "{order:?}: {plan:#?}");
        }
    }
    Ok(())
}
