//! The trigger that wakes the hosts at each commit that stored events, put there or taken away while writers write
//! ([`super::patience`]). What is as it should be already is not touched.

use super::{DatabaseError, Postgres, patience, schema};

/// Whether the trigger is there: `on`, `off`, or disabled by somebody, which is neither.
const STATE: &str = "
    SELECT coalesce((SELECT CASE tgenabled WHEN 'D' THEN 'disabled' ELSE 'on' END FROM pg_trigger
                     WHERE tgrelid = 'events'::regclass AND tgname = 'projectionist_notify'), 'off')";

/// Puts it there.
pub(super) const ON: &str = include_str!("../../../migrations/postgres/notify_on.sql");

/// Takes it away.
const OFF: &str = include_str!("../../../migrations/postgres/notify_off.sql");

/// Has commits of events wake the hosts, or not.
///
/// # Errors
/// When the database fails, and [`DatabaseError::EventsInUse`] when somebody had the table locked all the time.
pub async fn switch(database: &Postgres, wake: bool) -> Result<(), DatabaseError> {
    let doing = "setting up NOTIFY";
    let mut connection = database.connect("projectionist migrate").await?;
    schema::take_turn(database, &mut connection).await?;
    let state: String =
        sqlx::query_scalar(STATE).fetch_one(&mut connection).await.map_err(|error| database.error(doing, error))?;
    if state == if wake { "on" } else { "off" } {
        return Ok(());
    }
    patience::change_events(database, &mut connection, doing, if wake { ON } else { OFF }).await
}
