//! `latchkeyd breach-list build | verify | info`.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;

use super::{fail, print};
use crate::breach_list::{BreachList, BreachListError, Build, BuildError, Progress, build};
use crate::domain::time::Timestamp;
use crate::environment::Environment;

/// How often the line that shows the progress is written.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

const BUILD_EXAMPLES: &str = "An INPUT is a file of lines SHA1 or SHA1:COUNT, or a folder of range files, named by the \
    first five digits of their hashes. The order does not matter. The result takes 2.3 bytes a password; while it is built, the disk \
    needs another 12 bytes a password beside FILE.\n\n\
    Examples:\n  latchkeyd breach-list build --out /var/lib/latchkey/leaked.list ranges/\n  \
    latchkeyd breach-list build --out leaked.list --min-count 10 pwnedpasswords.txt own.txt\n\n\
    FILE is replaced only when the new list is complete. Copy it to other machines under another name, then rename it.";

#[derive(Subcommand)]
pub(super) enum BreachListCommand {
    /// Make a list of SHA-1 hashes
    #[command(after_help = BUILD_EXAMPLES)]
    Build {
        /// The file to write; an earlier list is replaced
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Leave out passwords that were leaked fewer times: the list is smaller, and refuses less
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        min_count: u32,
        /// Files of hashes, and folders of them
        #[arg(required = true)]
        input: Vec<PathBuf>,
    },
    /// Read a whole list and compare its checksums; exit 1 if it is damaged
    #[command(after_help = "Example:\n  latchkeyd breach-list verify /var/lib/latchkey/leaked.list")]
    Verify {
        /// The list
        file: PathBuf,
    },
    /// Show what a list says about itself
    #[command(after_help = "Example:\n  latchkeyd breach-list info /var/lib/latchkey/leaked.list")]
    Info {
        /// The list
        file: PathBuf,
    },
}

/// Runs the command.
pub(super) fn run(command: BreachListCommand) -> ExitCode {
    match command {
        BreachListCommand::Build { out, min_count, input } => {
            let mut shown = Shown::default();
            let built = build_list(&out, min_count, &input, &mut shown);
            shown.clear();
            built.map_or_else(|error| fail(&error), |text| print(&text))
        }
        BreachListCommand::Verify { file } => verified(&file).map_or_else(|error| fail(&error), |text| print(&text)),
        BreachListCommand::Info { file } => described(&file).map_or_else(|error| fail(&error), |text| print(&text)),
    }
}

/// Builds a list. Returns what to print.
fn build_list(out: &Path, min_count: u32, inputs: &[PathBuf], shown: &mut Shown) -> Result<String, BuildError> {
    let begun = Instant::now();
    let now = Environment::system().now().as_unix_seconds();
    let built = build(&Build { inputs, out, min_count, now }, &mut |progress| shown.show(progress))?;
    let header = &built.header;
    let wrote = format!(
        "✔ wrote {}: {} passwords, {} duplicates dropped, {} bytes, in {:.1} s\n  digest {}\n",
        out.display(),
        header.keys,
        built.duplicates,
        header.length,
        begun.elapsed().as_secs_f64(),
        header.digest_text()
    );
    let rare = match built.rare {
        0 => String::new(),
        rare => format!("  {rare} were leaked fewer than {min_count} times and are left out\n"),
    };
    let missing = match built.missing_ranges {
        0 => String::new(),
        missing => format!("  ! {missing} range files are missing: the download is not complete\n"),
    };
    let path = std::path::absolute(out).unwrap_or_else(|_| out.to_owned());
    let next = format!(
        "To use it, start latchkeyd with LATCHKEY_PASSWORD_BREACH_LIST={}. A server that does so already takes it up within \
         a minute.\n",
        path.display()
    );
    Ok([wrote, rare, missing, next].concat())
}

fn verified(file: &Path) -> Result<String, BreachListError> {
    let list = BreachList::open(file)?;
    list.verify()?;
    let header = list.header();
    Ok(format!("✔ {} is good: {} passwords, digest {}\n", file.display(), header.keys, header.digest_text()))
}

fn described(file: &Path) -> Result<String, BreachListError> {
    let list = BreachList::open(file)?;
    let header = list.header();
    let built_at = Timestamp::from_micros(header.built_at.saturating_mul(1_000_000));
    Ok(format!(
        "passwords:     {}\nminimum count: {}\nbuilt:         {built_at}\nbytes:         {}\nshards:        {}\n\
         digest:        {}\n",
        header.keys,
        header.min_count,
        header.length,
        header.shards,
        header.digest_text()
    ))
}

/// The line on a terminal that shows the progress.
#[derive(Default)]
struct Shown {
    last: Option<Instant>,
}

impl Shown {
    fn show(&mut self, progress: Progress) {
        let is_due = self.last.is_none_or(|last| last.elapsed() >= REDRAW_EVERY);
        if !is_due || !std::io::stderr().is_terminal() {
            return;
        }
        self.last = Some(Instant::now());
        let percent = (progress.done * 100).checked_div(progress.total).unwrap_or(100);
        // A line that cannot be shown is no reason to stop.
        let _ = write!(std::io::stderr(), "\r{} {percent} %\x1b[K", progress.step);
    }

    fn clear(&self) {
        if self.last.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
