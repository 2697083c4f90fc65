//! The handler of `any_runtime/handler.rs` on async-std.

#[path = "any_runtime/handler.rs"]
mod handler;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    async_std::task::block_on(handler::run_a_job("async-std"))
}
