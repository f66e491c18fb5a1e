//! Shared memory over HTTP.

use serde::Serialize;
use siglip::image::decode_base64;
use siglip_protocol::json::{self, AccessError, Value};

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
        (MemoryAction::Register, Some(_)) => Err(refuse_cuda(&json::parse(body)?)),
        (MemoryAction::Unregister, _) => Ok(reply::done()),
    }
}

/// Why this memory of a GPU is not registered: first what is wrong with the request.
fn refuse_cuda(root: &Value<'_>) -> ManageError {
    /// Bytes of a `cudaIpcMemHandle_t`.
    const HANDLE: usize = 64;
    let Some(handle) = root.get("raw_handle") else { return ManageError::NoField("raw_handle") };
    let fields = handle.member("b64").and_then(|handle| handle.string()).and_then(|handle| {
        root.member("byte_size")?.unsigned()?;
        root.member("device_id")?.unsigned()?;
        Ok(handle)
    });
    match fields.map(|handle| decode_base64(&handle)) {
        Err(error) => error.into(),
        Ok(Ok(handle)) if handle.len() == HANDLE => RegionError::NoCuda.into(),
        Ok(_) => RegionError::CudaHandle.into(),
    }
}
