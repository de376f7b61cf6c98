//! Compiles the protocol definitions without any tool from outside Cargo.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let definitions = protox::compile(["workload_api.proto"], ["proto"])?;
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("Cargo sets OUT_DIR")?);
    fs::write(out.join("workload_api.descriptors"), definitions.encode_to_vec())?;
    // `bytes`: one copy of a bundle is shared by every message that carries it.
    tonic_prost_build::configure()
        .bytes(".")
        .btree_map(".")
        .build_server(false)
        .build_transport(false)
        .compile_fds(definitions)?;
    Ok(())
}
