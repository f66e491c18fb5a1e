//! Shared memory over HTTP.

use serde::Serialize;
use siglip::image::decode_base64;
use siglip_protocol::json::{self, AccessError};

use super::manage::{ManageError, document};
use super::reply::{self, Reply};
use super::route::MemoryAction;
use crate::regions::RegionError;
use crate::state::ServerState;

#[derive(Serialize)]
struct RegionStatus<'a> {
    name: &'a str,
    key: &'a str,
    offset: u64,
    byte_size: u64,
}

pub(super) fn system(
    state: &ServerState,
    region: Option<&str>,
    action: MemoryAction,
    body: &[u8],
) -> Result<Reply, ManageError> {
    match action {
        MemoryAction::Status => {
            let regions = state.regions.status(region)?;
            let list: Vec<_> = regions
                .iter()
                .map(|(name, region)| RegionStatus {
                    name,
                    key: &region.key,
                    offset: region.offset,
                    byte_size: region.byte_size,
                })
                .collect();
            Ok(document(&list))
        }
        MemoryAction::Register => {
            let name = region.ok_or(RegionError::NoName("system"))?;
            let root = json::parse(body)?;
            let key = root.get("key").ok_or(ManageError::NoField("key"))?.string()?;
            let offset = root.get("offset").map_or(Ok(0), |offset| offset.unsigned())?;
            let byte_size = root.get("byte_size").ok_or(ManageError::NoField("byte_size"))?.unsigned()?;
            let key = std::str::from_utf8(&key).map_err(|_| AccessError::NotString)?;
            state.regions.register(name, key, offset, byte_size)?;
            Ok(reply::done())
        }
        MemoryAction::Unregister => {
            state.regions.unregister(region);
            Ok(reply::done())
        }
    }
}

/// Memory of a GPU cannot be registered, so that there never is any.
pub(super) fn cuda(region: Option<&str>, action: MemoryAction, body: &[u8]) -> Result<Reply, ManageError> {
    match (action, region) {
        (MemoryAction::Status, None) => Ok(document(&[(); 0])),
        (MemoryAction::Status, Some(region)) => Err(RegionError::UnknownCuda(region.to_owned()).into()),
        (MemoryAction::Register, None) => Err(RegionError::NoName("cuda").into()),
        (MemoryAction::Register, Some(_)) => refuse_cuda(body),
        (MemoryAction::Unregister, _) => Ok(reply::done()),
    }
}

/// Refuses memory of a GPU, after what is wrong with the request.
fn refuse_cuda(body: &[u8]) -> Result<Reply, ManageError> {
    /// Bytes of a `cudaIpcMemHandle_t`.
    const HANDLE: usize = 64;
    let root = json::parse(body)?;
    let handle = root.get("raw_handle").ok_or(ManageError::NoField("raw_handle"))?;
    let handle = handle.member("b64")?.string()?;
    root.member("byte_size")?.unsigned()?;
    root.member("device_id")?.unsigned()?;
    let whole = decode_base64(&handle).is_ok_and(|handle| handle.len() == HANDLE);
    Err(if whole { RegionError::NoCuda } else { RegionError::CudaHandle }.into())
}
