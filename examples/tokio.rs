//! The handler of `any_runtime/handler.rs` on tokio.

#[path = "any_runtime/handler.rs"]
mod handler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokio::runtime::Runtime::new()?.block_on(handler::run_a_job("tokio"))
}
