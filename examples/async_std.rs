//! The handler of `any_runtime/handler.rs` on async-std.

#[path = "any_runtime/handler.rs"]
mod handler;
#[path = "any_runtime/loopback.rs"]
mod loopback;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    async_std::task::block_on(loopback::run("async-std"))
}
