//! Familiar places: where an account has signed in from, at most a few of them.

use sea_orm::sea_query::OnConflict;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect, Set};

use super::entity::familiar_place::{self, Column};
use super::single::only;
use super::sweep::delete_batch;
use super::{Autocommit, WriteTx};
use crate::domain::familiar::{FAMILIAR_FOR, MAX_PLACES};
use crate::domain::id::UserId;
use crate::domain::time::Timestamp;
use crate::error::Result;

/// Returns whether the user has signed in from the place, and not too long ago.
pub async fn place_is_familiar(c: &impl ConnectionTrait, user: UserId, place: &str, now: Timestamp) -> Result<bool> {
    let key = (user.to_string(), place.to_owned());
    let row: Option<familiar_place::Model> = only(c, familiar_place::Entity::find_by_id(key)).await?;
    Ok(row.is_some_and(|row| row.last_used_at > now.saturating_sub(FAMILIAR_FOR).as_micros()))
}

/// Records a sign-in from the place. If the user has too many places, the least recently used one is forgotten.
pub async fn place_used(tx: &WriteTx, user: UserId, place: &str, now: Timestamp) -> Result<()> {
    let row = familiar_place::ActiveModel {
        user_id: Set(user.to_string()),
        place: Set(place.to_owned()),
        last_used_at: Set(now.as_micros()),
    };
    let again = OnConflict::columns([Column::UserId, Column::Place]).update_column(Column::LastUsedAt).to_owned();
    familiar_place::Entity::insert(row).on_conflict(again).exec_without_returning(tx).await?;
    failpoint!("store.place_used");
    // Reads all of them, which are few: SQLite plans a statement with a bound LIMIT anew each time it runs.
    let places: Vec<String> = familiar_place::Entity::find()
        .select_only()
        .column(Column::Place)
        .filter(Column::UserId.eq(user.to_string()))
        .filter(Column::Place.ne(place))
        .order_by_desc(Column::LastUsedAt)
        .order_by_asc(Column::Place)
        .into_tuple()
        .all(tx)
        .await?;
    let surplus: Vec<String> = places.into_iter().skip(MAX_PLACES - 1).collect();
    if !surplus.is_empty() {
        familiar_place::Entity::delete_many()
            .filter(Column::UserId.eq(user.to_string()))
            .filter(Column::Place.is_in(surplus))
            .exec(tx)
            .await?;
    }
    Ok(())
}

/// Forgets all places of a user.
pub async fn place_forget_all(tx: &WriteTx, user: UserId) -> Result<()> {
    familiar_place::Entity::delete_many().filter(Column::UserId.eq(user.to_string())).exec(tx).await?;
    failpoint!("store.place_forget_all");
    Ok(())
}

/// Deletes a batch of places that have not been used for too long. Returns whether there may be more.
pub async fn places_sweep(tx: &Autocommit, now: Timestamp) -> Result<bool> {
    let unused_since = now.saturating_sub(FAMILIAR_FOR).as_micros();
    delete_batch::<familiar_place::Entity>(tx, Column::LastUsedAt.lte(unused_since)).await
}
