//! The handler of `any_runtime/handler.rs` on smol.

#[path = "any_runtime/handler.rs"]
mod handler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    smol::block_on(handler::run_a_job("smol"))
}
