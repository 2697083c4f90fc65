//! Runs lines of a script with bash.

use std::{collections::BTreeMap, error::Error, fs, path::Path, process::Command};

use gitlab_runner::job::Job;
use tokio_util::sync::CancellationToken;

use crate::process;

/// Where the lines are, among the temporary files of the job, which only we can read. No variable has
/// such a name.
const SCRIPT_FILE: &str = "step.sh";

/// Runs the lines in the directory `project`, each printed before it runs, up to the first one that
/// fails. Gives the exit code.
///
/// # Errors
/// When they cannot be run: no bash, no disk.
pub(crate) async fn run(
    job: &Job,
    project: &Path,
    lines: &[String],
    environment: BTreeMap<String, String>,
    cancel: &CancellationToken,
) -> Result<i32, Box<dyn Error + Send + Sync>> {
    let file = job.temp_dir().await?.join(SCRIPT_FILE);
    let (path, text) = (file.clone(), script(lines));
    job.unblock(move || fs::write(path, text)).await?;
    let mut bash = Command::new(process::find("bash"));
    bash.arg(&file)
        .current_dir(project)
        .env_clear()
        .envs(environment);
    Ok(process::run(job, bash, cancel, |output| job.trace(output)).await?)
}

/// The lines as one script, that ends with the first of them that fails and prints each before
/// it runs.
fn script(lines: &[String]) -> String {
    let mut script = "set -eo pipefail\n".to_owned();
    for line in lines {
        let mut parts = line.lines();
        let first = parts.next().unwrap_or_default();
        let more = match parts.next() {
            Some(_) => " # collapsed multi-line command",
            None => "",
        };
        let title = format!("\x1b[32;1m$ {first}{more}\x1b[0;m").replace('\'', r"'\''");
        script += &format!("printf '%s\\n' '{title}'\n{line}\n");
    }
    script
}
