//! Paths.

use http::Method;

use super::reply::ErrorForm;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Server,
    Live,
    Ready,
    AllStatistics,
    Model { name: &'a str, version: Option<&'a str>, action: ModelAction },
    RepositoryIndex,
    SystemMemory { region: Option<&'a str>, action: MemoryAction },
    CudaMemory { region: Option<&'a str>, action: MemoryAction },
    Trace { model: Option<&'a str> },
    Logging,
    RepositoryModel { repository: Option<&'a str>, model: &'a str, action: RepositoryAction },
    Unknown,
}

/// What is asked of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoryAction {
    Status,
    Register,
    Unregister,
}

/// What is asked of the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RepositoryAction {
    Load,
    Unload,
}

/// What is asked of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ModelAction {
    Metadata,
    Ready,
    Config,
    Statistics,
    Infer,
    Generate { stream: bool },
}

impl<'a> Route<'a> {
    /// What `path` asks for. Paths are taken as they stand: nothing is decoded, no slash is forgiven.
    pub(super) fn of(path: &'a str) -> Route<'a> {
        let Some(rest) = path.strip_prefix("/v2") else { return Route::Unknown };
        let mut parts = rest.split('/');
        if parts.next() != Some("") {
            return Route::Unknown;
        }
        let parts: Vec<&str> = parts.collect();
        match *parts.as_slice() {
            [] => Route::Server,
            ["health", "live"] => Route::Live,
            ["health", "ready"] => Route::Ready,
            ["logging"] => Route::Logging,
            ["trace", "setting"] => Route::Trace { model: None },
            ["systemsharedmemory", ref rest @ ..] => match memory(rest) {
                Some((region, action)) => Route::SystemMemory { region, action },
                None => Route::Unknown,
            },
            ["cudasharedmemory", ref rest @ ..] => match memory(rest) {
                Some((region, action)) => Route::CudaMemory { region, action },
                None => Route::Unknown,
            },
            ["models", "stats"] => Route::AllStatistics,
            ["models", model, "trace", "setting"] if !model.is_empty() => Route::Trace { model: Some(model) },
            ["models", name, "versions", version, ref action @ ..] if is_version(version) => {
                Route::model(name, Some(version), action)
            }
            ["models", name, ref action @ ..] => Route::model(name, None, action),
            ["repository", ref rest @ ..] => Route::repository(rest),
            _ => Route::Unknown,
        }
    }

    fn repository(parts: &[&'a str]) -> Route<'a> {
        let (repository, parts) = match *parts {
            ["models" | "index", ..] => (None, parts),
            [repository, ref parts @ ..] if !repository.is_empty() => (Some(repository), parts),
            _ => return Route::Unknown,
        };
        match *parts {
            ["index"] => Route::RepositoryIndex,
            ["models", model, "load"] if !model.is_empty() => {
                Route::RepositoryModel { repository, model, action: RepositoryAction::Load }
            }
            ["models", model, "unload"] if !model.is_empty() => {
                Route::RepositoryModel { repository, model, action: RepositoryAction::Unload }
            }
            _ => Route::Unknown,
        }
    }

    fn model(name: &'a str, version: Option<&'a str>, action: &[&str]) -> Route<'a> {
        let action = match *action {
            [] => ModelAction::Metadata,
            ["ready"] => ModelAction::Ready,
            ["config"] => ModelAction::Config,
            ["stats"] => ModelAction::Statistics,
            ["infer"] => ModelAction::Infer,
            ["generate"] => ModelAction::Generate { stream: false },
            ["generate_stream"] => ModelAction::Generate { stream: true },
            _ => return Route::Unknown,
        };
        if name.is_empty() { Route::Unknown } else { Route::Model { name, version, action } }
    }

    /// The methods that it takes, and the form of the error for any other; `None` for what does not exist.
    pub(super) fn methods(&self) -> Option<(&'static [Method], ErrorForm)> {
        const GET: &[Method] = &[Method::GET];
        const POST: &[Method] = &[Method::POST];
        const BOTH: &[Method] = &[Method::GET, Method::POST];
        use ErrorForm::{Json, Plain};
        Some(match self {
            Route::Live | Route::Ready | Route::Model { action: ModelAction::Ready, .. } => (GET, Plain),
            Route::Model { action: ModelAction::Infer, .. } => (POST, Plain),
            Route::Model { action: ModelAction::Generate { .. }, .. } => (POST, Json),
            Route::Server | Route::AllStatistics | Route::Model { .. } => (GET, Json),
            Route::SystemMemory { action: MemoryAction::Status, .. }
            | Route::CudaMemory { action: MemoryAction::Status, .. } => (GET, Json),
            Route::SystemMemory { .. }
            | Route::CudaMemory { .. }
            | Route::RepositoryIndex
            | Route::RepositoryModel { .. } => (POST, Json),
            Route::Trace { .. } | Route::Logging => (BOTH, Json),
            Route::Unknown => return None,
        })
    }
}

/// What follows the name of a kind of shared memory.
fn memory<'a>(parts: &[&'a str]) -> Option<(Option<&'a str>, MemoryAction)> {
    let (region, action) = match *parts {
        ["region", region, action] if !region.is_empty() => (Some(region), action),
        [action] => (None, action),
        _ => return None,
    };
    let action = match action {
        "status" => MemoryAction::Status,
        "register" => MemoryAction::Register,
        "unregister" => MemoryAction::Unregister,
        _ => return None,
    };
    Some((region, action))
}

fn is_version(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let model = |name, version, action| Route::Model { name, version, action };
        assert_eq!(Route::of("/v2"), Route::Server);
        assert_eq!(Route::of("/v2/health/live"), Route::Live);
        assert_eq!(Route::of("/v2/models/stats"), Route::AllStatistics);
        assert_eq!(Route::of("/v2/models/m"), model("m", None, ModelAction::Metadata));
        assert_eq!(Route::of("/v2/models/m/infer"), model("m", None, ModelAction::Infer));
        let generate = |stream| ModelAction::Generate { stream };
        assert_eq!(Route::of("/v2/models/m/generate"), model("m", None, generate(false)));
        assert_eq!(
            Route::of("/v2/models/m/versions/1/generate_stream"),
            model("m", Some("1"), generate(true))
        );
        assert_eq!(Route::of("/v2/models/m/versions/1/config"), model("m", Some("1"), ModelAction::Config));
        assert_eq!(Route::of("/v2/models/m/versions/1"), model("m", Some("1"), ModelAction::Metadata));
        assert_eq!(Route::of("/v2/repository/index"), Route::RepositoryIndex);
        let load =
            |repository| Route::RepositoryModel { repository, model: "m", action: RepositoryAction::Load };
        assert_eq!(Route::of("/v2/repository/models/m/load"), load(None));
        assert_eq!(Route::of("/v2/repository/r/models/m/load"), load(Some("r")));
        for unknown in [
            "/v2/repository",
            "/v2/repository/models/m",
            "/",
            "/v2/",
            "/v3",
            "/v2x",
            "/v2//models/m",
            "/v2/models",
            "/v2/models/",
            "/v2/models/m/",
            "/v2/models/m/versions",
            "/v2/models/m/versions/abc",
            "/v2/models/m/versions/-1",
            "/v2/models/m/foo",
            "/v2/health",
            "/v2/health/live/",
        ] {
            assert_eq!(Route::of(unknown), Route::Unknown, "{unknown}");
        }
    }
}
