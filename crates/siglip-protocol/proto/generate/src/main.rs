//! Makes the committed Rust code and the descriptors of the .proto files beside this program.

use std::error::Error;
use std::fs;
use std::path::Path;

use prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let proto = here.join("..");
    let messages = here.join("../../src/grpc");
    let services = here.join("../../../siglip-server/src/grpc/generated");
    fs::create_dir_all(&messages)?;
    fs::create_dir_all(&services)?;
    let files = [proto.join("inference.proto"), proto.join("health.proto")];
    let descriptors = protox::compile(files, [&proto])?;
    fs::write(services.join("descriptors.bin"), descriptors.encode_to_vec())?;

    // The messages, for the protocol crate.
    prost_build::Config::new()
        .out_dir(&messages)
        .bytes(["."])
        .btree_map(["."])
        .compile_fds(descriptors.clone())?;
    // The services, for the server, which finds the messages in the protocol crate.
    tonic_prost_build::configure()
        .out_dir(&services)
        .build_client(false)
        .bytes(".")
        .btree_map(".")
        .extern_path(".inference", "::siglip_protocol::grpc::inference")
        .extern_path(".grpc.health.v1", "::siglip_protocol::grpc::health")
        .compile_fds(descriptors)?;
    fs::rename(messages.join("grpc.health.v1.rs"), messages.join("health.rs"))?;
    fs::rename(services.join("grpc.health.v1.rs"), services.join("health.rs"))?;
    Ok(())
}
