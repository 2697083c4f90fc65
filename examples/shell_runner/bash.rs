//! Runs lines of a script with bash.

use std::{collections::BTreeMap, error::Error, fs, path::Path, process::Command};

use gitlab_runner::job::Job;
use tokio_util::sync::CancellationToken;

use crate::process;

/// Where the lines are, among the temporary files of the job, which only we can read. No variable has
/// such a name.
const SCRIPT_FILE: &str = "step.sh";

/// What a step writes into the file of this name, `KEY=VALUE` in each line, later ones find in their
/// environment.
const PASS_ON: &str = "GITLAB_ENV";
const PASS_ON_FILE: &str = "gitlab.env";

/// Runs the lines in the directory `project`, each printed before it runs, up to the first one that
/// fails. Gives the exit code.
///
/// # Errors
/// When they cannot be run: no bash, no disk.
pub(crate) async fn run(
    job: &Job,
    project: &Path,
    lines: &[String],
    mut environment: BTreeMap<String, String>,
    cancel: &CancellationToken,
) -> Result<i32, Box<dyn Error + Send + Sync>> {
    let temp = job.temp_dir().await?;
    let file = temp.join(SCRIPT_FILE);
    let traces = job.payload().switch("CI_DEBUG_TRACE") == Some(true);
    let (path, text) = (file.clone(), script(lines, traces));
    let temp = job
        .unblock(move || {
            fs::write(path, text)?;
            fs::canonicalize(temp)
        })
        .await?;
    let pass_on = temp.join(PASS_ON_FILE);
    environment.insert(PASS_ON.to_owned(), pass_on.display().to_string());
    let mut bash = Command::new(process::find("bash"));
    bash.arg(&file)
        .current_dir(project)
        .env_clear()
        .envs(environment);
    Ok(process::run(job, bash, cancel, |output| job.trace(output)).await?)
}

/// Takes over what earlier steps have passed on.
const TAKE_OVER: &str = r#"if [ -f "$GITLAB_ENV" ]; then
while IFS= read -r line || [ -n "$line" ]; do
[ -z "$line" ] || export "${line?}"
done < "$GITLAB_ENV"
unset line
fi
"#;

/// The lines as one script, that ends with the first of them that fails and prints each before
/// it runs. If it `traces`, bash prints every command.
fn script(lines: &[String], traces: bool) -> String {
    let mut script = format!("set -eo pipefail\n{TAKE_OVER}");
    if traces {
        script += "set -o xtrace\n";
    }
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
