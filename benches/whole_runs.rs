//! Builds and runs `benches/compare`, which is a package of its own for the sake of what it depends
//! on. Names of rows may be given: `cargo bench --bench whole_runs -- short log`.

use std::{
    env,
    path::Path,
    process::{Command, ExitCode},
};

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        // `cargo test --benches`: that package is tested by itself.
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = arguments.iter().filter(|argument| *argument != "--bench");
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/compare/Cargo.toml");
    if !manifest.exists() {
        eprintln!("!! NOT MEASURED: benches/compare is not part of the published crate !!");
        return Ok(ExitCode::SUCCESS);
    }
    let cargo = |what: &str, with: &[&str]| {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo
            .args([what, "--release", "--manifest-path"])
            .arg(&manifest)
            .args(with);
        cargo
    };
    let mut with: &[&str] = &[];
    if !cargo("build", with).status()?.success() {
        eprintln!("!! collabora's crate cannot be built: measured WITHOUT it !!");
        with = &["--no-default-features"];
    }
    let status = cargo("run", with).arg("--").args(arguments).status()?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
