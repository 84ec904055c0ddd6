//! The trigger that wakes the hosts at each commit that stored events, put there or taken away while writers write
//! ([`super::patience`]). What is as it should be already is not touched.

use super::{DatabaseError, Postgres, patience, schema};

/// Whether the trigger is there: `on`, `off`, or disabled by somebody, which is neither.
const STATE: &str = "
    SELECT coalesce((SELECT CASE tgenabled WHEN 'D' THEN 'disabled' ELSE 'on' END FROM pg_trigger
                     WHERE tgrelid = 'events'::regclass AND tgname = 'projectionist_notify'), 'off')";

/// Whether it was ever decided: both decisions leave the function of the trigger.
const DECIDED: &str = "SELECT to_regproc('projectionist.notify_events') IS NOT NULL";

/// Puts it there.
pub(super) const ON: &str = include_str!("../../../migrations/postgres/notify_on.sql");

/// Takes it away.
const OFF: &str = include_str!("../../../migrations/postgres/notify_off.sql");

/// Has commits of events wake the hosts, or not. Where nothing is said, what was decided before stays, and at first they do.
///
/// # Errors
/// When the database fails, and [`DatabaseError::EventsInUse`] when somebody had the table locked all the time.
pub async fn switch(database: &Postgres, wake: Option<bool>) -> Result<(), DatabaseError> {
    let doing = "setting up NOTIFY";
    let mut connection = database.connect("projectionist migrate").await?;
    schema::take_turn(database, &mut connection).await?;
    let failed = |error| database.error(doing, error);
    let decided: bool = sqlx::query_scalar(DECIDED).fetch_one(&mut connection).await.map_err(failed)?;
    let wake = match wake {
        None if decided => return Ok(()),
        wake => wake.unwrap_or(true),
    };
    let state: String = sqlx::query_scalar(STATE).fetch_one(&mut connection).await.map_err(failed)?;
    if decided && state == if wake { "on" } else { "off" } {
        return Ok(());
    }
    patience::change_events(database, &mut connection, doing, if wake { ON } else { OFF }).await
}
