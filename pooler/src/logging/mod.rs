//! Log lines in PgBouncer's format: `2026-11-22 19:47:02.967 UTC [71] LEVEL text`.

mod syslog;

use std::fmt;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::Context;
use tracing_subscriber::prelude::*;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Registry, reload};

use self::syslog::{DEV_LOG, Syslog};
use crate::config::Settings;
use crate::lock::lock;

/// What RELOAD changes of a log that runs.
pub struct Log {
    file: Arc<Mutex<Option<File>>>,
    syslog: ToSyslog,
    levels: reload::Handle<Targets, Registry>,
    /// From the command line; the setting only adds to it.
    least_verbosity: u32,
}

impl Log {
    /// Opens the file anew, which may have been renamed by logrotate, and takes over the other settings. What was open stays
    /// if the new file can't be opened.
    pub fn reopen(&self, settings: &Settings) -> std::io::Result<()> {
        // It fails only if the process logs through another subscriber, which has levels of its own.
        let _ = self.levels.reload(levels(settings.verbose.max(self.least_verbosity)));
        *lock(&self.syslog.0) = syslog(settings);
        let opened = open(&settings.logfile)?;
        *lock(&self.file) = opened;
        Ok(())
    }
}

/// Appended to; `None` without a file.
fn open(path: &Path) -> std::io::Result<Option<File>> {
    let there_is_one = !path.as_os_str().is_empty();
    there_is_one.then(|| File::options().append(true).create(true).open(path)).transpose()
}

fn syslog(settings: &Settings) -> Option<Syslog> {
    let open = || Syslog::new(Path::new(DEV_LOG), &settings.syslog_ident, settings.syslog_facility as u8);
    settings.syslog.then(open)
}

fn levels(verbosity: u32) -> Targets {
    let level = match verbosity {
        0 => Level::INFO,
        1 => Level::DEBUG,
        _ => Level::TRACE,
    };
    Targets::new().with_default(Level::WARN).with_target("sluice", level).with_target("sluice_catalog", level)
}

/// The log file, if there is one now.
struct Output(Arc<Mutex<Option<File>>>);

impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match &mut *lock(&self.0) {
            Some(file) => file.write(bytes),
            None => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Starts logging as the settings say, and to stderr. Verbosity 0 logs, 1 debugs, 2 is noise; neither the settings nor RELOAD go
/// below `least_verbosity`.
pub fn start(settings: &Settings, stderr: bool, least_verbosity: u32) -> std::io::Result<Log> {
    let (own, handle) = reload::Layer::new(levels(settings.verbose.max(least_verbosity)));
    let stderr = stderr.then(|| tracing_subscriber::fmt::layer().event_format(Lines).with_writer(std::io::stderr));
    let file = Arc::new(Mutex::new(open(&settings.logfile)?));
    let output = Arc::new(Output(file.clone()));
    let to_file = tracing_subscriber::fmt::layer().event_format(Lines).with_ansi(false).with_writer(output);
    let syslog = ToSyslog(Arc::new(Mutex::new(syslog(settings))));
    // A second start in one process (tests) keeps the first.
    let _ = tracing_subscriber::registry().with(own).with(stderr).with(to_file).with(syslog.clone()).try_init();
    log_panics();
    Ok(Log { file, syslog, levels: handle, least_verbosity })
}

/// A panic ends one task, which nobody would notice: stderr is no longer there in the background.
fn log_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!("internal error: {}", panic.to_string().replace('\n', " "));
        usual(panic);
    }));
}

/// Syslog, if it is used now.
#[derive(Clone)]
struct ToSyslog(Arc<Mutex<Option<Syslog>>>);

impl<S: Subscriber> Layer<S> for ToSyslog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if let Some(syslog) = &mut *lock(&self.0) {
            syslog.send(*event.metadata().level(), &syslog_timestamp(SystemTime::now()), &Text::of(event));
        }
    }
}

struct Lines;

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "LOG",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "NOISE",
        };
        let text = Text::of(event).replace('\n', "\n\t");
        writeln!(writer, "{} UTC [{}] {level} {text}", timestamp(SystemTime::now()), std::process::id())
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Text {
    fn of(event: &Event<'_>) -> String {
        let mut text = Self::default();
        event.record(&mut text);
        text.message + &text.fields
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push_str(&format!(" {}={value:?}", field.name()));
        }
    }
}

/// `YYYY-MM-DD HH:MM:SS.mmm`, UTC.
pub fn timestamp(at: SystemTime) -> String {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil_from_days(days as i64);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:03}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        since.subsec_millis()
    )
}

/// `Nov  2 19:47:02`, UTC: as syslog writes it.
fn syslog_timestamp(at: SystemTime) -> String {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = timestamp(at);
    let month = text[5..7].parse::<usize>().map_or("Jan", |month| MONTHS[(month - 1) % 12]);
    format!("{month} {:>2} {}", text[8..10].trim_start_matches('0'), &text[11..19])
}

/// The proleptic Gregorian date of a day number (0 = 1970-01-01), by counting years from 1 March.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_stamps_are_right_at_the_edges() {
        let at = |seconds| timestamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01 00:00:00.000");
        assert_eq!(at(951_782_399), "2000-02-28 23:59:59.000");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00.000");
        assert_eq!(at(1_795_392_000), "2026-11-23 00:00:00.000");
        assert_eq!(syslog_timestamp(UNIX_EPOCH + Duration::from_secs(951_782_399 + 86_400 * 2)), "Mar  1 23:59:59");
    }
}
