//! Progress of long operations on standard error: a bar on a terminal, otherwise plain lines at intervals. Log lines go
//! through [`log_writer`], which takes the bars off the terminal while a line is written.

use std::cell::{Cell, RefCell};
use std::io::{IsTerminal, Write};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::terminal::{duration, visible};

/// Interval of plain lines if standard error is not a terminal.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// Shorter operations print no plain line.
const WORTH_A_LINE: Duration = Duration::from_secs(2);

/// All progress bars of the program, one below the other.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Whether progress is hidden (see [`hide`]).
static HIDDEN: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Name of the owner of this thread's work.
    static OWNER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Hides the progress of all operations that start from here on.
pub fn hide() {
    HIDDEN.store(true, Ordering::Relaxed);
}

/// Runs `work`; progress that it reports on this thread begins with the name of `owner`.
pub fn owned_by<T>(owner: &str, work: impl FnOnce() -> T) -> T {
    let before = OWNER.replace(format!("{owner}: "));
    let done = work();
    OWNER.set(before);
    done
}

/// Whether standard error is a terminal that moves its cursor.
fn on_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Standard error for log lines. Bars are cleared before a line and drawn again below it.
pub fn log_writer() -> impl Write {
    LogWriter
}

struct LogWriter;

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        BARS.suspend(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Progress of one operation, such as reading a file or an epoch.
pub struct Progress {
    label: String,
    unit: &'static str,
    bar: ProgressBar,
    started: Instant,
    last_line: Cell<Instant>,
}

impl Progress {
    /// Starts at zero of `total` units (`None` if the total is unknown).
    pub fn new(label: impl Into<String>, total: Option<u64>, unit: &'static str) -> Self {
        // A label may be the name of a file.
        let label = OWNER.with_borrow(|owner| visible(&format!("{owner}{}", label.into())).into_owned());
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
        if on_terminal() && !HIDDEN.load(Ordering::Relaxed) {
            let template = match total {
                Some(_) => "{prefix:>12} {bar:32} {human_pos}/{human_len} {msg} {eta}",
                None => "{prefix:>12} {spinner} {human_pos} {msg} {elapsed}",
            };
            bar.set_style(ProgressStyle::with_template(template).expect("a valid template"));
            bar.set_prefix(label.clone());
            // A bar that was drawn before it is added would leave a line that nobody clears.
            BARS.add(bar.clone());
        }
        Progress { label, unit, bar, started: Instant::now(), last_line: Cell::new(Instant::now()) }
    }

    /// Adds `amount` finished units.
    pub fn advance(&self, amount: u64) {
        self.bar.inc(amount);
        if self.bar.is_hidden() && self.last_line.get().elapsed() >= PLAIN_INTERVAL {
            self.last_line.set(Instant::now());
            self.line("");
        }
    }

    /// Shows `text` beside the bar, such as the current loss.
    pub fn message(&self, text: impl Into<String>) {
        self.bar.set_message(text.into());
    }

    /// Ends the progress. Without a terminal, a long operation prints one plain line with its duration.
    pub fn finish(self) {
        if self.bar.is_hidden() && self.started.elapsed() >= WORTH_A_LINE {
            self.line(&format!(" in {}", duration(self.started.elapsed().as_secs_f64())));
        }
        self.bar.finish_and_clear();
    }

    fn line(&self, suffix: &str) {
        if HIDDEN.load(Ordering::Relaxed) {
            return;
        }
        let done = self.bar.position();
        let of = self.bar.length().map_or(String::new(), |total| format!("/{total}"));
        let message = self.bar.message();
        let message = if message.is_empty() { message } else { format!(", {message}") };
        // The operation continues even if standard error is closed.
        let _ = writeln!(std::io::stderr(), "{}: {done}{of} {}{message}{suffix}", self.label, self.unit);
    }
}
