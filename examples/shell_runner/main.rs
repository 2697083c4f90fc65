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
//! `bash.rs` and `process.rs` are how it runs scripts, and `signals.rs` is how it ends. `runtime.rs` is
//! what all of it runs on: nothing else here knows.

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
mod runtime;
mod shell;
mod signals;
mod sources;

use std::{env, error::Error, io, path, pin::pin, process::ExitCode, sync::Arc};

use futures::{FutureExt, select};
use gitlab_runner::{Runner, adapter::Adapter};
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
        Mode::Demo(runtime) => {
            print_events("error");
            runtime.block_on(None, async |adapter| {
                demo::run(Signals::new(None)?, adapter).await
            })
        }
        Mode::Serve(options) => {
            print_events("warn,gitlab_runner=info");
            let (runtime, ca_file) = (options.runtime, options.ca_file.clone());
            runtime.block_on(ca_file.as_deref(), |adapter| serve(options, adapter))
        }
    };
    process::kill_all();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("shell_runner: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Prints events at least as important as this to stderr.
fn print_events(events: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(events));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .init();
}

/// Serves a real GitLab until told to stop.
async fn serve(options: args::Serve, adapter: Arc<dyn Adapter>) -> Result<bool, Box<dyn Error>> {
    let signals = Signals::new(options.drain_limit)?;
    let mut builder = Runner::builder(options.url, options.token.expose(), options.build_dir);
    if let Some(file) = options.ca_file {
        // Git needs it too, and is elsewhere.
        let absolute = path::absolute(&file)?;
        builder = builder.variable("CI_SERVER_TLS_CA_FILE", absolute.display().to_string());
    }
    let mut runner = environment::shared(builder)
        .adapter(adapter)
        .timestamps(true)
        .artifact_log(true)
        .build()
        .await;
    let handle = runner.handle();
    let mut run = pin!(runner.run(Shell::start, options.concurrency).fuse());
    let mut stop = pin!(signals.stop(handle).fuse());
    select! {
        result = run => {
            result?;
            Ok(true)
        }
        () = stop => Ok(false),
    }
}
