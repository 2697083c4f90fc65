//! The handler of `any_runtime/handler.rs` in virtual time, with no runtime and no socket at all.

#[path = "any_runtime/handler.rs"]
mod handler;

use gitlab_runner::{Runner, sim::Sim};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sim = Sim::new(1);
    let (gitlab, job) = handler::gitlab("the simulator");
    let gitlab = sim.serve("gitlab.example.test", gitlab);
    let builds = tempfile::tempdir()?;
    let runner = Runner::with_adapter(
        "https://gitlab.example.test".parse()?,
        handler::TOKEN.to_owned(),
        builds.path().into(),
        sim.adapter(),
    );
    sim.block_on(handler::run_a_job(runner))?;
    gitlab.with(|gitlab, _| handler::print(gitlab, job))
}
