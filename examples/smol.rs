//! The handler of `any_runtime/handler.rs` on smol.

#[path = "any_runtime/handler.rs"]
mod handler;
#[path = "any_runtime/loopback.rs"]
mod loopback;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    smol::block_on(loopback::run("smol"))
}
