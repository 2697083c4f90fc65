//! The handler of `any_runtime/handler.rs` on tokio.

#[path = "any_runtime/handler.rs"]
mod handler;
#[path = "any_runtime/loopback.rs"]
mod loopback;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tokio::runtime::Runtime::new()?.block_on(loopback::run("tokio"))
}
