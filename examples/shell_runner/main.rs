//! A complete runner: takes jobs of GitLab CI and runs them with bash.
//!
//! ```console
//! cargo run --example shell_runner
//! GITLAB_RUNNER_TOKEN=glrt-... cargo run --example shell_runner -- --url https://gitlab.example.com
//! ```
//!
//! Without arguments it starts a simulated GitLab in the same process, queues a pipeline there, runs
//! it with real shells, and compares what that GitLab has stored in the end with what it should
//! have. `shell.rs` is what to read first: the handler. `sources` gets what it works on with git,
//! `bash.rs` and `process.rs` are how it runs scripts, and `signals.rs` is how it ends.

mod args;
mod bash;
mod console;
mod demo;
mod environment;
mod expect;
mod log;
mod pipeline;
mod process;
mod repository;
mod shell;
mod signals;
mod sources;

use std::{env, error::Error, io, path, process::ExitCode, sync::Arc, time::Duration};

use gitlab_runner::{Runner, adapter::TokioHyper};
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::{args::Mode, shell::Shell, signals::Signals};

fn main() -> ExitCode {
    let mode = args::parse(env::args_os().skip(1), env::var_os(args::TOKEN_VARIABLE));
    let mode = match mode {
        Ok(mode) => mode,
        Err(error) => {
            eprintln!("shell_runner: {error}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    let result = match mode {
        Mode::Help => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        // The demo shows what happens by itself.
        Mode::Demo => start("error", || async { demo::run(Signals::new(None)?).await }),
        Mode::Serve(options) => start("warn,gitlab_runner=info", || serve(options)),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shell_runner: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `work` on tokio, with events at least as important as this printed to stderr.
fn start<F>(events: &str, work: impl FnOnce() -> F) -> Result<bool, Box<dyn Error>>
where
    F: Future<Output = Result<bool, Box<dyn Error>>>,
{
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(events));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
    let runtime = Runtime::new()?;
    let result = runtime.block_on(work());
    // Drops what still runs, and with it kills the shells.
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Serves a real GitLab until told to stop.
async fn serve(options: args::Serve) -> Result<bool, Box<dyn Error>> {
    let signals = Signals::new(options.drain_limit)?;
    let mut adapter = TokioHyper::builder();
    let mut builder = Runner::builder(options.url, options.token.expose(), options.build_dir);
    if let Some(file) = options.ca_file {
        // Git needs it too, and is elsewhere.
        let absolute = path::absolute(&file)?;
        builder = builder.variable("CI_SERVER_TLS_CA_FILE", absolute.display().to_string());
        adapter = adapter.ca_file(file);
    }
    let mut runner = environment::shared(builder)
        .adapter(Arc::new(adapter.build()?))
        .timestamps(true)
        .artifact_log(true)
        .build()
        .await;
    let handle = runner.handle();
    tokio::select! {
        result = runner.run(Shell::start, options.concurrency) => {
            result?;
            Ok(true)
        }
        () = signals.stop(handle) => Ok(false),
    }
}
