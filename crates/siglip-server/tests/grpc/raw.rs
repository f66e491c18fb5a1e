//! A client that sends and receives bytes, and the comparison of messages.

use std::fmt::Debug;
use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes};
use futures_util::stream::Stream;
use http::uri::PathAndQuery;
use prost::Message;
use siglip_protocol::grpc::inference as grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Request, Status};

const SERVICE: &str = "/inference.GRPCInferenceService/";

pub(crate) struct RawClient(tonic::client::Grpc<Channel>);

impl RawClient {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        let channel = Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        RawClient(tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX))
    }

    pub(crate) async fn unary(&mut self, rpc: &str, request: Vec<u8>) -> Result<Bytes, Status> {
        self.0.ready().await.unwrap();
        let response = self.0.unary(Request::new(Bytes::from(request)), path(rpc), RawCodec).await?;
        Ok(response.into_inner())
    }

    pub(crate) async fn stream(
        &mut self,
        requests: Vec<grpc::ModelInferRequest>,
    ) -> Result<Vec<grpc::ModelStreamInferResponse>, Status> {
        let requests: Vec<Bytes> = requests.iter().map(|request| request.encode_to_vec().into()).collect();
        let responses = self.messages("ModelStreamInfer", futures_util::stream::iter(requests)).await?;
        Ok(responses.into_iter().map(|response| Message::decode(response).unwrap()).collect())
    }

    /// Sends messages as they come, and gives all that come back.
    pub(crate) async fn messages(
        &mut self,
        rpc: &str,
        requests: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Result<Vec<Bytes>, Status> {
        self.0.ready().await.unwrap();
        let response = self.0.streaming(Request::new(requests), path(rpc), RawCodec).await?;
        let mut messages = response.into_inner();
        let mut responses = Vec::new();
        while let Some(message) = messages.message().await? {
            responses.push(message);
        }
        Ok(responses)
    }
}

fn path(rpc: &str) -> PathAndQuery {
    let path = if rpc.starts_with('/') { rpc.to_owned() } else { format!("{SERVICE}{rpc}") };
    path.parse().unwrap()
}

#[derive(Clone, Copy, Default)]
struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = RawCodec;
    type Decoder = RawCodec;

    fn encoder(&mut self) -> RawCodec {
        RawCodec
    }

    fn decoder(&mut self) -> RawCodec {
        RawCodec
    }
}

impl Encoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for RawCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Compares two responses of a method, apart from what differs wherever it occurs, and from what ours say of the models
/// in `additional`.
pub(crate) fn compare(rpc: &str, recorded: &[u8], ours: &[u8], additional: &[&str]) -> Result<(), String> {
    match rpc {
        "ModelMetadata" => messages(recorded, ours, |message: &mut grpc::ModelMetadataResponse| {
            message.platform.clear();
        }),
        "ServerMetadata" => messages(recorded, ours, |message: &mut grpc::ServerMetadataResponse| {
            message.name.clear();
            message.version.clear();
        }),
        "ModelConfig" => messages(recorded, ours, |message: &mut grpc::ModelConfigResponse| {
            if let Some(config) = &mut message.config {
                config.backend.clear();
                config.default_model_filename.clear();
                if let Some(grpc::model_config::SchedulingChoice::DynamicBatching(batching)) =
                    &mut config.scheduling_choice
                {
                    batching.default_queue_policy = None;
                }
            }
        }),
        "ModelStatistics" => messages(recorded, ours, |message: &mut grpc::ModelStatisticsResponse| {
            message.model_stats.retain(|model| !additional.contains(&model.name.as_str()));
        }),
        "RepositoryIndex" => messages(recorded, ours, |message: &mut grpc::RepositoryIndexResponse| {
            message.models.retain(|model| !additional.contains(&model.name.as_str()));
        }),
        "TraceSetting" => messages(recorded, ours, |_: &mut grpc::TraceSettingResponse| {}),
        "LogSettings" => messages(recorded, ours, |_: &mut grpc::LogSettingsResponse| {}),
        "SystemSharedMemoryStatus" => {
            messages(recorded, ours, |_: &mut grpc::SystemSharedMemoryStatusResponse| {})
        }
        "ModelInfer" => messages(recorded, ours, |_: &mut grpc::ModelInferResponse| {}),
        _ if recorded == ours => Ok(()),
        _ => Err(format!("Triton {recorded:?}, we {ours:?}")),
    }
}

fn messages<M: Message + Default + PartialEq + Debug>(
    recorded: &[u8],
    ours: &[u8],
    ignore: impl Fn(&mut M),
) -> Result<(), String> {
    let (mut recorded, mut ours) = (M::decode(recorded).unwrap(), M::decode(ours).unwrap());
    ignore(&mut recorded);
    ignore(&mut ours);
    if recorded == ours {
        return Ok(());
    }
    let clip = |message: &M| format!("{message:?}").chars().take(500).collect::<String>();
    Err(format!("Triton {}, we {}", clip(&recorded), clip(&ours)))
}
