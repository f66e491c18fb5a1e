//! One tower of a model without the bytes of the other: a smaller safetensors file from ranges of the Hub's.
//!
//! It is written under the name of the whole model's into a folder of ours, never into a snapshot, where Python's tools would take
//! it for the whole model's.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use serde_json::{Value, json};

use super::cache::RepoCache;
use super::client::Failure;
use super::download::{Download, Job, Run, Source};
use super::files::Plan;
use super::{HubError, Repo};
use crate::engine::Tower;
use crate::weights::header::{self, TensorInfo};
use crate::weights::{Weights, WeightsIndex, is_of_tower};

/// The tensors of a file by name.
type Header = BTreeMap<String, TensorInfo>;

/// Bytes that the first request for a header asks for: enough for a whole published one, and little to throw away.
const FIRST_REQUEST: u64 = 256 << 10;

impl Job<'_> {
    /// The names of the files that an index in `folder` lists; none, if the weights are one file.
    pub(super) fn shards(&self, plan: &Plan, folder: &Path) -> Result<Vec<String>, HubError> {
        if !plan.is_sharded() {
            return Ok(vec![]);
        }
        let path = folder.join(&plan.weights);
        let bytes = std::fs::read(&path).map_err(HubError::io(&path))?;
        let index = WeightsIndex::parse(&bytes).map_err(|reason| HubError::Weights {
            repo: self.repo.to_string(),
            file: plan.weights.clone(),
            reason,
        })?;
        Ok(index.files.into_keys().collect())
    }

    /// Fetches one tower's tensors into `folder`.
    pub(super) fn tower(
        &self,
        cache: &RepoCache,
        commit: &str,
        plan: &Plan,
        tower: Tower,
        folder: &Path,
    ) -> Result<(), HubError> {
        let target = folder.join(if plan.is_sharded() { Weights::FILE } else { &plan.weights });
        if target.is_file() {
            return Ok(());
        }
        let name = format!("{}, {tower} tower", plan.weights);
        let _lock = cache.lock(&format!("{commit}.{tower}"), &name, self.progress)?;
        if target.is_file() {
            return Ok(());
        }
        let files = if plan.is_sharded() {
            // Not beside the file that is written, whose tensors it does not describe.
            let above = cache.towers_folder(commit);
            self.file(cache, commit, &plan.weights, &above)?;
            self.shards(plan, &above)?
        } else {
            vec![plan.weights.clone()]
        };
        let mut sources = Vec::new();
        let mut headers = Vec::new();
        for file in files {
            let info = self.client.file_info(self.repo, commit, &file)?;
            let source = Source { name: file, info };
            headers.push(self.header(&source)?);
            sources.push(source);
        }
        let (head, runs) = select(self.repo, &headers, tower)?;
        self.download(&Download { target: &target, name: &name, head: &head, sources: &sources, runs: &runs })
    }

    /// The header of a safetensors file.
    fn header(&self, source: &Source) -> Result<Header, HubError> {
        let invalid = |reason: String| HubError::Weights {
            repo: self.repo.to_string(),
            file: source.name.clone(),
            reason,
        };
        let size = source.info.size;
        let mut bytes = self.bytes(source, FIRST_REQUEST.min(size))?;
        let file_len = usize::try_from(size).map_err(|error| invalid(error.to_string()))?;
        let end = header::end(&bytes, file_len).map_err(invalid)?;
        if end > bytes.len() {
            bytes = self.bytes(source, end as u64)?;
        }
        header::parse(&bytes, file_len).map_err(invalid)
    }

    /// The first bytes of a file.
    fn bytes(&self, source: &Source, count: u64) -> Result<Vec<u8>, HubError> {
        let Source { name, info } = source;
        self.client.persist(&info.url, || {
            let body = self.client.range(self.repo, name, info, (0, count));
            let mut bytes = Vec::new();
            let read = body?.read_to_end(&mut bytes).map_err(|error| Failure::Passing(error.to_string()))?;
            if read as u64 == count {
                Ok(bytes)
            } else {
                Err(Failure::Passing("it ended too early".to_owned()))
            }
        })
    }
}

/// The header of the smaller file, and the runs of bytes that follow it, adjacent tensors in one.
fn select(repo: &Repo, headers: &[Header], tower: Tower) -> Result<(Vec<u8>, Vec<Run>), HubError> {
    let mut wanted = Vec::new();
    for (source, header) in headers.iter().enumerate() {
        let tensors = header.iter().filter(|(name, _)| is_of_tower(name, tower));
        wanted.extend(tensors.map(|(name, tensor)| (source, tensor.range.start, name, tensor)));
    }
    // Tensors of both towers, such as `logit_scale`, do not make one.
    if !wanted.iter().any(|(_, _, name, _)| name.contains('.')) {
        return Err(HubError::NoTower { repo: repo.to_string(), tower });
    }
    wanted.sort_by_key(|(source, start, ..)| (*source, *start));

    let mut entries = BTreeMap::new();
    let mut runs: Vec<Run> = Vec::new();
    let mut end = 0_u64;
    for (source, start, name, tensor) in wanted {
        let (from, len) = (start as u64, tensor.range.len() as u64);
        let offsets = [end, end + len];
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": offsets});
        entries.insert(name.clone(), entry);
        match runs.last_mut() {
            Some(run) if run.source == source && run.from + run.len == from => run.len += len,
            _ => runs.push(Run { source, from, to: end, len }),
        }
        end += len;
    }
    let metadata = json!({"format": "pt", "tower": tower.to_string(), "of": repo.id});
    entries.insert("__metadata__".to_owned(), metadata);
    let mut header = Value::from_iter(entries).to_string().into_bytes();
    // The data starts at a multiple of 8, as everywhere.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut head = (header.len() as u64).to_le_bytes().to_vec();
    head.append(&mut header);
    for run in &mut runs {
        run.to += head.len() as u64;
    }
    Ok((head, runs))
}
