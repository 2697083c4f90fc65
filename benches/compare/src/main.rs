//! Whole runs over loopback sockets: this crate, collabora's published one, and as the floor a bare
//! client that sends the same requests. See `benches/README.md`.

mod adapters;
mod content;
mod floor;
mod packing;
mod process;
mod report;
mod runner;
mod server;
mod usage;
mod work;

use std::{env, sync::Arc};

use crate::{
    process::Who,
    usage::{Meter, Outcome},
    work::Work,
};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["profile", who, work, out] => {
            let who = Who::parse(who).ok_or("no such client")?;
            process::profile(who, work.parse()?, out.as_ref())
        }
        ["server", work] => server::serve(work.parse()?),
        ["client", who, work, server] => {
            let who = Who::parse(who).ok_or("no such client")?;
            client(who, work.parse()?, server)
        }
        _ => report::report(&arguments),
    }
}

/// Does the work and prints what it has cost.
fn client(who: Who, work: Work, server: &str) -> Result<(), BoxError> {
    let build_dir = build_dir()?;
    if let Who::On(on) = who {
        let usage = on.client(work, server, build_dir.path())?;
        println!("{}", serde_json::to_string(&usage)?);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let usage = runtime.block_on(async {
        let outcome = Arc::new(Outcome::default());
        let meter = Meter::start();
        match who {
            Who::Floor => floor::run(server, work, &outcome).await?,
            Who::Ours => runner::ours::run(server, work, build_dir.path(), &outcome).await?,
            #[cfg(feature = "collabora")]
            Who::Theirs => runner::theirs::run(server, work, build_dir.path(), &outcome).await?,
            #[cfg(not(feature = "collabora"))]
            Who::Theirs => return Err("built without collabora's crate".into()),
            Who::On(_) => {}
        }
        Ok::<_, BoxError>(meter.stop(&outcome))
    })?;
    println!("{}", serde_json::to_string(&usage)?);
    Ok(())
}

/// In memory where there is such a place, if `BUILD_DIR` does not name another: what the disk costs is
/// not what is compared.
fn build_dir() -> std::io::Result<tempfile::TempDir> {
    if let Some(dir) = env::var_os("BUILD_DIR") {
        return tempfile::tempdir_in(dir);
    }
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())
}
