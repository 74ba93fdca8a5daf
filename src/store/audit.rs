//! Audit events. They are only added: no function here changes or deletes one.

use sea_orm::sea_query::{Condition, Expr, ExprTrait, Query};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, Order, QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select, Set,
};

use super::WriteTx;
use super::entity::audit_event;
use super::page::newest_first;
use super::single::{record, records};
use super::text::{Decoder, json, readable};
use crate::domain::audit::{Actor, EventClass, EventFilter, EventType, Outcome, Parties, RecordedEvent, Target};
use crate::domain::id::{EventId, UserId};
use crate::domain::page::{Cursor, Page, PageSize};
use crate::domain::reason::Reason;
use crate::error::{Resource, Result};

/// Adds events.
pub async fn event_insert(tx: &WriteTx, events: impl IntoIterator<Item = RecordedEvent>) -> Result<()> {
    audit_event::Entity::insert_many(events.into_iter().map(encode)).exec_without_returning(tx).await?;
    failpoint!("store.event_insert");
    Ok(())
}

/// Reads one event.
pub async fn event_by_id(c: &impl ConnectionTrait, id: EventId) -> Result<Option<RecordedEvent>> {
    record(c, Resource::Event, audit_event::Entity::find_by_id(id.to_string())).await?.map(decode).transpose()
}

/// Returns whether an event has this id as its actor or its target.
pub async fn event_records_id(c: &impl ConnectionTrait, id: &str) -> Result<bool> {
    use audit_event::Column;
    Ok(exists(c, Column::TargetUserId.eq(id)).await? || exists(c, Column::ActorId.eq(id)).await?)
}

/// Returns whether an event has this name for its actor or its target.
pub async fn event_records_name(c: &impl ConnectionTrait, name: &str) -> Result<bool> {
    use audit_event::Column;
    Ok(exists(c, Column::TargetUsername.eq(name)).await? || exists(c, Column::ActorName.eq(name)).await?)
}

async fn exists(c: &impl ConnectionTrait, condition: Expr) -> Result<bool> {
    let select = audit_event::Entity::find().select_only().column(audit_event::Column::Id).filter(condition);
    Ok(select.into_tuple::<String>().one(c).await?.is_some())
}

/// Lists events, newest first.
pub async fn event_list(
    c: &impl ConnectionTrait,
    filter: &EventFilter,
    actors: &Parties,
    targets: &Parties,
    after: Option<&Cursor>,
    size: PageSize,
) -> Result<Page<RecordedEvent>> {
    use audit_event::Column;
    let select = || audit_event::Entity::find().filter(condition(filter, actors, targets));
    let page = |select| records(c, Resource::Event, newest_first(select, (Column::At, Column::Id), after, size));
    let is_found_otherwise = !actors.is_empty() || !targets.is_empty() || filter.request_id.is_some();
    let mut kinds = filter.kinds.clone();
    kinds.sort_unstable_by_key(|kind| kind.as_str());
    kinds.dedup();
    let rows: Vec<audit_event::Model> = match kinds.as_slice() {
        [] => page(select()).await?,
        kinds if is_found_otherwise => {
            // `IS TRUE` hides the condition from the index of kinds. One actor or target has far fewer events than a kind.
            let any = kinds.iter().fold(Condition::any(), |any, kind| any.add(is_kind(*kind)));
            page(select().filter(Expr::from(any).is(Expr::custom_keyword("TRUE")))).await?
        }
        // Each kind from its part of the index: to read several at once, a database would sort all their events.
        kinds => {
            let mut rows: Vec<audit_event::Model> = Vec::new();
            for kind in kinds {
                let of_kind: Vec<audit_event::Model> = page(select().filter(is_kind(*kind))).await?;
                rows.extend(of_kind);
            }
            rows.sort_unstable_by(|a, b| (b.at, &b.id).cmp(&(a.at, &a.id)));
            rows
        }
    };
    let page = Page::cut(rows, size, |row| Cursor::Time(row.at, row.id.clone()));
    Ok(Page { next: page.next, rows: readable(page.rows.into_iter().map(decode))? })
}

fn is_kind(kind: EventType) -> Expr {
    audit_event::Column::Kind.eq(kind.as_str())
}

/// How many of the last events about a user are searched.
pub const SEARCHED_EVENTS: u64 = 100;

/// The account that events are about.
#[derive(Debug, Clone)]
pub enum About {
    /// A user.
    User(UserId),
    /// The target with this name at that time.
    Name(String),
}

/// Reads the last events of these kinds about a user or a name, newest first. Looks only at the last [`SEARCHED_EVENTS`], by the
/// index of targets: a user with a million events and none of these kinds must not be searched for one.
pub async fn event_recent(
    c: &impl ConnectionTrait,
    about: &About,
    kinds: &[EventType],
    limit: u64,
) -> Result<Vec<RecordedEvent>> {
    use audit_event::Column;
    let newest = |select: Select<audit_event::Entity>| select.order_by_desc(Column::At).order_by_desc(Column::Id);
    let recent = audit_event::Entity::find().select_only().column(Column::Id).column(Column::Kind).column(Column::At);
    let of_target = match about {
        About::User(id) => Column::TargetUserId.eq(id.to_string()),
        About::Name(name) => Column::TargetUsername.eq(name.as_str()),
    };
    let recent = newest(recent.filter(of_target)).limit(SEARCHED_EVENTS);
    let mut found = Query::select();
    found
        .column(Column::Id)
        .from_subquery(recent.into_query(), "recent")
        .and_where(Expr::col(Column::Kind).is_in(kinds.iter().map(|kind| kind.as_str())))
        .order_by(Column::At, Order::Desc)
        .order_by(Column::Id, Order::Desc)
        .limit(limit);
    let mut ids = Query::select();
    ids.column(Column::Id).from_subquery(found, "found");
    let events = newest(audit_event::Entity::find().filter(Column::Id.in_subquery(ids)));
    let rows: Vec<audit_event::Model> = records(c, Resource::Event, events).await?;
    readable(rows.into_iter().map(decode))
}

/// The conditions of the filter, except the kinds.
fn condition(filter: &EventFilter, actors: &Parties, targets: &Parties) -> Condition {
    use audit_event::Column;
    let mut all = Condition::all();
    if let Some(from) = filter.from {
        all = all.add(Column::At.gte(from.as_micros()));
    }
    if let Some(until) = filter.until {
        all = all.add(Column::At.lt(until.as_micros()));
    }
    if !filter.outcomes.is_empty() {
        all = all.add(Column::Outcome.is_in(filter.outcomes.iter().map(|outcome| outcome_number(*outcome))));
    }
    if !actors.is_empty() {
        all = all.add(one_of(actors, Column::ActorId, Column::ActorName));
    }
    if !targets.is_empty() {
        all = all.add(one_of(targets, Column::TargetUserId, Column::TargetUsername));
    }
    if let Some(request_id) = &filter.request_id {
        // Each has an index of its own, and both databases join the two.
        let either = Condition::any().add(Column::RequestId.eq(request_id)).add(Column::ClientRequestId.eq(request_id));
        all = all.add(either);
    }
    all
}

/// Leaves out an empty list, so that the index of the other one serves the order too.
fn one_of(parties: &Parties, by_id: audit_event::Column, by_name: audit_event::Column) -> Condition {
    let some = |column: audit_event::Column, texts: &[String]| (!texts.is_empty()).then(|| column.is_in(texts));
    Condition::any().add_option(some(by_id, &parties.ids)).add_option(some(by_name, &parties.names))
}

/// Returns the number of an outcome in the API.
fn outcome_number(outcome: Outcome) -> i16 {
    match outcome {
        Outcome::Succeeded => 1,
        Outcome::Failed => 2,
        Outcome::Denied => 3,
    }
}

fn class_number(class: EventClass) -> i16 {
    match class {
        EventClass::Administration => 1,
        EventClass::SignIn => 2,
    }
}

fn encode(event: RecordedEvent) -> audit_event::ActiveModel {
    audit_event::ActiveModel {
        id: Set(event.id.to_string()),
        at: Set(event.at.as_micros()),
        class: Set(class_number(event.kind.class())),
        kind: Set(event.kind.as_str().to_owned()),
        outcome: Set(outcome_number(event.outcome)),
        reason: Set(event.reason.map(|reason| reason.as_str().to_owned())),
        actor_id: Set(event.actor.principal_id),
        actor_name: Set(event.actor.name),
        actor_session_id: Set(event.actor.session_id),
        actor_api_token_id: Set(event.actor.api_token_id),
        app: Set(event.actor.app),
        client_address: Set(event.actor.client_address),
        user_agent: Set(event.actor.user_agent),
        target_user_id: Set(event.target.user_id),
        target_username: Set(event.target.username),
        subject_id: Set(event.subject_id),
        changed_fields: Set(event.changed_fields.join(" ")),
        note: Set(event.note),
        details: Set(json(&event.details)),
        method: Set(event.method),
        request_id: Set(event.request_id),
        sequence: Set(None),
        digest: Set(None),
        client_request_id: Set(Some(event.client_request_id).filter(|id| !id.is_empty())),
    }
}

fn decode(row: audit_event::Model) -> Result<RecordedEvent> {
    let decoder = Decoder { resource: Resource::Event, id: &row.id, version: None };
    let outcome = [Outcome::Succeeded, Outcome::Failed, Outcome::Denied]
        .into_iter()
        .find(|outcome| outcome_number(*outcome) == row.outcome);
    Ok(RecordedEvent {
        id: decoder.parse(&row.id)?,
        at: decoder.instant(row.at)?,
        kind: decoder.some(EventType::parse(&row.kind))?,
        outcome: decoder.some(outcome)?,
        reason: row.reason.as_deref().map(|reason| decoder.some(Reason::parse(reason))).transpose()?,
        details: decoder.map(&row.details)?,
        actor: Actor {
            principal_id: row.actor_id,
            name: row.actor_name,
            session_id: row.actor_session_id,
            api_token_id: row.actor_api_token_id,
            app: row.app,
            client_address: row.client_address,
            user_agent: row.user_agent,
        },
        target: Target { user_id: row.target_user_id, username: row.target_username },
        subject_id: row.subject_id,
        changed_fields: row.changed_fields.split_whitespace().map(str::to_owned).collect(),
        note: row.note,
        method: row.method,
        request_id: row.request_id,
        client_request_id: row.client_request_id.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Location, Store};

    #[tokio::test]
    async fn events_of_a_kind_are_read_in_order_from_an_index_of_their_own()
    -> std::result::Result<(), Box<dyn std::error::Error>> {
        use audit_event::Column;
        let dir = tempfile::tempdir()?;
        let store = Store::connect(&Location::Sqlite(dir.path().join("latchkey.db"))).await?;
        store.migrate().await?.commit().await?;
        let size = PageSize::parse(50).ok_or("a page size")?;
        let cursor = Cursor::Time(5, "x".to_owned());
        for after in [None, Some(&cursor)] {
            let select = audit_event::Entity::find().filter(is_kind(EventType::UserDeleted));
            let select = newest_first(select, (Column::At, Column::Id), after, size);
            let mut statement = select.build(sea_orm::DbBackend::Sqlite);
            statement.sql = format!("EXPLAIN QUERY PLAN {}", statement.sql);
            let rows = store.reader().query_all_raw(statement).await?;
            let plan: Vec<String> =
                rows.iter().map(|row| row.try_get("", "detail")).collect::<std::result::Result<_, _>>()?;
            assert!(plan.len() == 1 && plan.iter().all(|step| step.contains("INDEX audit_event_kind")), "{plan:#?}");
        }
        Ok(())
    }
}
