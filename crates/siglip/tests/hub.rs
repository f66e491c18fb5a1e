//! Fetching from a stand-in for the Hub that redirects, cuts connections, lies and refuses.
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

#[path = "hub/standin.rs"]
mod standin;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use siglip::engine::Tower;
use siglip::hub::{Hub, HubError, Patience, Progress, Repo, Settings, Token};
use siglip::model::Model;
use siglip::weights::Weights;
use standin::{Asked, COMMIT, StandIn, etag};
use tempfile::TempDir;

// ---- What is fetched, and where it lies.

#[test]
fn a_model_is_fetched_into_the_shared_cache_and_opens() {
    let setup = Setup::new("both");
    let fetched = setup.fetch(None).unwrap();
    let repo = setup.cache().join("models--org--model");
    assert_eq!(fetched, repo.join("snapshots").join(COMMIT));
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    for name in ["config.json", "model.safetensors", "preprocessor_config.json"] {
        let bytes = fs::read(fixture("both").join(name)).unwrap();
        assert_eq!(fs::read(fetched.join(name)).unwrap(), bytes, "{name}");
        let link = fs::read_link(fetched.join(name)).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(etag(name, &bytes)), "{name}");
    }
    let model = Model::open(&fetched).unwrap();
    assert!(model.text.is_some() && model.vision.is_some());
    assert!(!fetched.join("notes.txt").exists(), "what no tower needs is not fetched");
    assert_eq!(setup.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let setup = Setup::new("both");
    setup.fetch(None).unwrap();
    setup.hub.asked();
    setup.fetch(None).unwrap();
    let asked = setup.hub.asked();
    assert_eq!(asked.len(), 1, "only the revision is looked up: {asked:?}");
    assert!(asked[0].path.starts_with("/api/models/"));
}

#[test]
fn a_blob_that_another_name_has_is_not_fetched_again() {
    let setup = Setup::new("both");
    let folder = setup.fetch(None).unwrap();
    fs::remove_file(folder.join("model.safetensors")).unwrap();
    setup.hub.asked();
    setup.fetch(None).unwrap();
    assert!(
        setup
            .hub
            .asked()
            .iter()
            .all(|asked| asked.method == "HEAD" || asked.path.starts_with("/api/models/"))
    );
    Model::open(&folder).unwrap();
}

#[test]
fn shards_are_fetched_by_their_index() {
    let setup = Setup::new("sharded");
    let model = Model::open(&setup.fetch(None).unwrap()).unwrap();
    assert!(model.text.is_some() && model.vision.is_some());
}

#[test]
fn a_model_in_open_clips_layout_is_fetched() {
    let setup = Setup::new("open_clip");
    let model = Model::open(&setup.fetch(None).unwrap()).unwrap();
    assert!(model.text.is_some() && model.vision.is_some());
}

#[test]
fn a_large_file_comes_in_ranges_over_several_connections() {
    let setup = Setup::with("both", |settings| settings.part = 10_000);
    setup.fetch(None).unwrap();
    let size = fs::metadata(fixture("both").join("model.safetensors")).unwrap().len();
    let mut ranges = setup.ranges("model.safetensors");
    ranges.sort_unstable();
    let expected: Vec<_> =
        (0..size.div_ceil(10_000)).map(|part| (part * 10_000, size.min((part + 1) * 10_000))).collect();
    assert_eq!(ranges, expected);
}

#[test]
fn one_tower_is_fetched_without_the_bytes_of_the_other() {
    for fixture_name in ["both", "sharded", "open_clip"] {
        for tower in [Tower::Text, Tower::Vision] {
            let setup = Setup::new(fixture_name);
            let folder = setup.fetch(Some(tower)).unwrap();
            let expected = format!("models--org--model/siglip/{COMMIT}/{tower}");
            assert_eq!(folder, setup.cache().join(expected));
            assert!(
                !setup.cache().join("models--org--model/refs").exists(),
                "Python's tools would take it for whole"
            );
            assert!(!setup.cache().join("models--org--model/snapshots").exists());

            let (whole, part) = (open(&fixture(fixture_name)), open(&folder));
            assert_eq!(
                (part.text.is_some(), part.vision.is_some()),
                (tower == Tower::Text, tower == Tower::Vision)
            );
            let (weights, of) = (open_weights(&folder), open_weights(&fixture(fixture_name)));
            for name in numbers(&weights) {
                let shape = of.shape(name).unwrap();
                let (got, expected) = (weights.tensor(name, shape).unwrap(), of.tensor(name, shape).unwrap());
                assert_eq!(got.bytes(), expected.bytes(), "{name}");
            }
            assert_eq!((part.logit_scale, part.logit_bias), (whole.logit_scale, whole.logit_bias));

            // The headers are small beside real weights, but not beside these; a range of a tower's bytes starts late.
            let data = |range: &&(u64, u64)| range.0 > 0;
            let asked: u64 = setup.weight_ranges().iter().filter(data).map(|(start, end)| end - start).sum();
            let bytes = |name| weights.tensor(name, of.shape(name).unwrap()).unwrap().bytes().len() as u64;
            // The fixtures' position ids, which no engine reads: 64 numbers of 8 bytes.
            let tensors: u64 = numbers(&weights).map(bytes).sum::<u64>() + 64 * 8;
            assert!(
                asked <= tensors,
                "{fixture_name}, {tower}: {asked} bytes for {tensors} bytes of tensors"
            );

            // Again: nothing but the look-up.
            setup.hub.asked();
            setup.fetch(Some(tower)).unwrap();
            assert!(
                setup
                    .hub
                    .asked()
                    .iter()
                    .all(|asked| asked.method == "HEAD" || asked.path.starts_with("/api/"))
            );
            assert_eq!(setup.get().unwrap(), folder, "a name finds the tower that is there");
        }
    }
}

#[test]
fn towers_that_were_fetched_one_by_one_are_one_model() {
    for fixture_name in ["both", "sharded", "open_clip"] {
        for order in [[Tower::Text, Tower::Vision], [Tower::Vision, Tower::Text]] {
            let setup = Setup::new(fixture_name);
            setup.hub.set(|hub| drop(hub.files.insert("spiece.model".to_owned(), spiece())));
            for tower in order {
                setup.fetch(Some(tower)).unwrap();
            }
            for offline in [false, true] {
                let hub = Hub::new(Settings { offline, ..setup.settings.clone() });
                setup.hub.asked();
                let fetched = hub.get(&"org/model".parse().unwrap(), &Silent::default()).unwrap();
                assert_eq!(setup.hub.asked(), Vec::<Asked>::new());
                assert_eq!(fetched.only, None);
                let (model, whole) = (fetched.open().unwrap(), open(&fixture(fixture_name)));
                assert!(model.text.is_some() && model.vision.is_some() && model.tokenizer.is_some());
                assert_eq!(model.preprocessor, whole.preprocessor);
                assert_eq!((model.logit_scale, model.logit_bias), (whole.logit_scale, whole.logit_bias));
                let of_others = |sentence: &&String| !sentence.starts_with("There is no tokenizer");
                assert!(
                    model.missing.iter().eq(whole.missing.iter().filter(of_others)),
                    "{:?}",
                    model.missing
                );
            }
        }
    }
}

// ---- Connections that break, servers that lie.

#[test]
fn a_cut_connection_goes_on_where_it_was_cut() {
    let setup = Setup::new("both");
    setup.hub.set(|hub| hub.cuts = vec![1000, 0, 500]);
    let folder = setup.fetch(None).unwrap();
    let ranges = setup.ranges("model.safetensors");
    let size = fs::metadata(fixture("both").join("model.safetensors")).unwrap().len();
    assert_eq!(ranges, [(0, size), (1000, size), (1000, size), (1500, size)]);
    Model::open(&folder).unwrap();
}

#[test]
fn a_fetch_that_gave_up_goes_on_in_the_next_process() {
    let setup = Setup::with("both", |settings| {
        settings.part = 10_000;
        settings.connections = 1;
        settings.patience.attempts = 2;
    });
    setup.hub.set(|hub| hub.cuts = vec![10_000, 10_000, 77, 0, 0]);
    let error = setup.fetch(None).unwrap_err();
    assert!(
        matches!(&error, HubError::Cut { file, attempts: 2, .. } if file == "model.safetensors"),
        "{error}"
    );
    assert!(!setup.snapshot().join("model.safetensors").exists());
    assert!(!setup.cache().join("models--org--model/refs/main").exists());

    setup.hub.asked();
    setup.fetch(None).unwrap();
    let ranges = setup.ranges("model.safetensors");
    assert_eq!(ranges[0], (20_000, 30_000), "{ranges:?}");
    Model::open(&setup.snapshot()).unwrap();
    assert_eq!(setup.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn parts_whose_file_is_gone_are_fetched_again() {
    // Nothing else would show it: a tower has no SHA-256 to be checked against.
    for tower in [None, Some(Tower::Text), Some(Tower::Vision)] {
        for damage in
            [|file: &Path| fs::remove_file(file).unwrap(), |file: &Path| fs::write(file, "").unwrap()]
        {
            let setup = Setup::with("both", |settings| {
                settings.part = 2_000;
                settings.connections = 1;
                settings.patience.attempts = 2;
            });
            // The header of a tower's fetch is an answer of its own.
            let whole = [if tower.is_some() { usize::MAX } else { 2_000 }, 2_000, 2_000];
            setup.hub.set(|hub| hub.cuts = whole.into_iter().chain([77, 0, 0]).collect());
            let error = setup.fetch(tower).unwrap_err();
            assert!(matches!(&error, HubError::Cut { .. }), "{error}");
            let leftovers = setup.leftovers();
            let unfinished = |file: &&PathBuf| file.to_string_lossy().ends_with(".siglip.incomplete");
            damage(leftovers.iter().find(unfinished).expect("a part of it has come"));

            let folder = setup.fetch(tower).unwrap();
            let (weights, of) = (open_weights(&folder), open_weights(&fixture("both")));
            for name in numbers(&weights) {
                let shape = of.shape(name).unwrap();
                let (got, expected) = (weights.tensor(name, shape).unwrap(), of.tensor(name, shape).unwrap());
                assert_eq!(got.bytes(), expected.bytes(), "{name}");
            }
            assert_eq!(setup.leftovers(), Vec::<PathBuf>::new());
        }
    }
}

#[test]
fn a_wrong_length_is_no_file() {
    let setup = Setup::new("both");
    setup.hub.set(|hub| hub.longer = [("model.safetensors".to_owned(), 5)].into());
    let error = setup.fetch(None).unwrap_err();
    let size = fs::metadata(fixture("both").join("model.safetensors")).unwrap().len();
    assert!(
        matches!(error, HubError::Length { expected, got, .. } if expected == size + 5 && got == size),
        "{error}"
    );
    assert!(!setup.snapshot().join("model.safetensors").exists());
    assert_eq!(setup.whole_blobs(), setup.whole_blobs_but("model.safetensors"));
}

#[test]
fn damaged_bytes_are_thrown_away() {
    let setup = Setup::new("both");
    setup.hub.set(|hub| hub.damaged = vec!["model.safetensors".to_owned()]);
    let error = setup.fetch(None).unwrap_err();
    assert!(matches!(error, HubError::Checksum { .. }), "{error}");
    assert_eq!(setup.leftovers(), Vec::<PathBuf>::new());
    setup.hub.set(|hub| hub.damaged.clear());
    Model::open(&setup.fetch(None).unwrap()).unwrap();
}

#[test]
fn a_server_without_ranges_serves_what_one_request_can_hold() {
    let setup = Setup::new("both");
    setup.hub.set(|hub| hub.no_ranges = true);
    setup.fetch(None).unwrap();
    let setup = Setup::with("both", |settings| settings.part = 10_000);
    setup.hub.set(|hub| hub.no_ranges = true);
    let error = setup.fetch(None).unwrap_err().to_string();
    assert!(error.ends_with("the server does not answer range requests"), "{error}");
}

#[test]
fn a_busy_hub_is_asked_again_and_a_dead_one_is_given_up() {
    let setup = Setup::new("both");
    setup.hub.set(|hub| hub.busy = 2);
    setup.fetch(None).unwrap();

    let dead = Setup::with("both", |settings| settings.endpoint = "http://127.0.0.1:9".to_owned());
    let error = dead.fetch(None).unwrap_err();
    assert!(matches!(error, HubError::Unreachable { attempts: 3, .. }), "{error}");
}

// ---- Who may see what.

#[test]
fn the_token_goes_to_the_hub_and_nowhere_else() {
    let setup = Setup::with("both", |settings| settings.token = Token::new("hf_secret"));
    setup.hub.set(|hub| hub.token = Some("hf_secret".to_owned()));
    setup.fetch(None).unwrap();
    let asked = setup.hub.asked();
    let (cdn, hub): (Vec<_>, Vec<_>) = asked.iter().partition(|asked| asked.cdn);
    assert!(!cdn.is_empty() && cdn.iter().all(|asked| asked.token.is_none()), "{cdn:?}");
    assert!(hub.iter().all(|asked| asked.token.as_deref() == Some("hf_secret")), "{hub:?}");
}

#[test]
fn a_gated_model_says_what_to_do() {
    let setup = Setup::new("both");
    setup.hub.set(|hub| hub.token = Some("hf_secret".to_owned()));
    let error = setup.fetch(None).unwrap_err().to_string();
    assert_eq!(
        error,
        "the Hub refuses org/model (status 401): it is gated or private, or there is no such model; set HF_TOKEN to a \
         token that has access"
    );
    let setup = Setup::with("both", |settings| settings.token = Token::new("hf_wrong"));
    setup.hub.set(|hub| hub.token = Some("hf_secret".to_owned()));
    let error = setup.fetch(None).unwrap_err().to_string();
    assert!(error.contains("the token that was sent does not give access"), "{error}");
}

#[test]
fn what_is_not_there_is_named() {
    let setup = Setup::new("both");
    let error = |repo: &str| {
        let repo: Repo = repo.parse().unwrap();
        Hub::new(setup.settings.clone()).fetch(&repo, None, &Silent::default()).unwrap_err().to_string()
    };
    assert_eq!(error("org/other"), format!("there is no model org/other on {}", setup.hub.endpoint));
    assert_eq!(error("org/model@v9"), "org/model has no revision `v9`");
    setup.hub.set(|hub| drop(hub.files.remove("model.safetensors")));
    assert_eq!(
        error("org/model"),
        "org/model has no model.safetensors, the only form of weights that is read"
    );
    setup.hub.set(|hub| drop(hub.files.remove("config.json")));
    assert_eq!(error("org/model"), "org/model has no config.json");
}

// ---- Without a network.

#[test]
fn offline_is_without_a_socket() {
    let setup = Setup::new("both");
    setup.fetch(None).unwrap();
    setup.hub.asked();
    let offline = Setup { settings: Settings { offline: true, ..setup.settings.clone() }, ..setup };
    assert_eq!(offline.fetch(None).unwrap(), offline.snapshot());
    assert_eq!(offline.get().unwrap(), offline.snapshot());
    fs::remove_file(offline.snapshot().join("model.safetensors")).unwrap();
    let error = offline.get().unwrap_err().to_string();
    let looked = offline.cache().join("models--org--model");
    assert!(
        error.contains("the cache has no model.safetensors") && error.contains(looked.to_str().unwrap()),
        "{error}"
    );
    let empty =
        Setup { settings: Settings { cache: "nowhere".into(), ..offline.settings.clone() }, ..offline };
    assert!(matches!(empty.get(), Err(HubError::Offline { .. })));
    assert_eq!(empty.hub.asked(), Vec::<Asked>::new());
}

#[test]
fn a_name_is_not_looked_up_while_the_cache_has_it_all() {
    let setup = Setup::new("both");
    setup.hub.set(|hub| drop(hub.files.insert("spiece.model".to_owned(), b"pieces".to_vec())));
    setup.fetch(None).unwrap();
    setup.hub.asked();
    assert_eq!(setup.get().unwrap(), setup.snapshot());
    assert_eq!(setup.hub.asked(), Vec::<Asked>::new());
}

#[test]
fn a_hub_that_is_gone_does_not_keep_a_model_from_opening() {
    // No tokenizer: the cache cannot know that the model has none, and so the Hub would be asked.
    let setup = Setup::new("both");
    setup.fetch(None).unwrap();
    let settings = Settings { endpoint: "http://127.0.0.1:9".to_owned(), ..setup.settings.clone() };
    let gone = Setup { settings, ..setup };
    assert_eq!(gone.get().unwrap(), gone.snapshot());
}

/// The variable that makes [`in_a_network_namespace`] the child of [`no_route_is_needed`]: the cache.
const CHILD: &str = "SIGLIP_TEST_HUB_CACHE";

#[test]
fn no_route_is_needed() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--map-root-user", "--net"]);
        command
    };
    if !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        println!("skipped: this machine does not let the test make a network namespace");
        return;
    }
    let setup = Setup::new("both");
    setup.hub.set(|hub| drop(hub.files.insert("spiece.model".to_owned(), b"pieces".to_vec())));
    setup.fetch(None).unwrap();
    let child = unshare()
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_network_namespace", "--nocapture"])
        .env(CHILD, setup.cache())
        .env("SIGLIP_TEST_HUB", &setup.hub.endpoint)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("the model is there"), "{output}");
}

/// Does nothing unless [`no_route_is_needed`] runs it, where not even the loopback is up.
#[test]
fn in_a_network_namespace() {
    let Some(cache) = std::env::var_os(CHILD) else { return };
    let endpoint = std::env::var("SIGLIP_TEST_HUB").unwrap();
    let address = endpoint.trim_start_matches("http://");
    assert!(std::net::TcpStream::connect(address).is_err(), "the namespace must not reach the stand-in");
    let repo: Repo = "org/model".parse().unwrap();
    for offline in [false, true] {
        let settings = settings(&endpoint, cache.clone().into());
        let hub = Hub::new(Settings { offline, ..settings });
        let fetched = hub.get(&repo, &Silent::default()).unwrap();
        assert!(fetched.folder.join("model.safetensors").is_file());
    }
    println!("the model is there");
}

// ---- Two at once, and no room.

#[test]
fn two_fetches_at_once_fetch_once() {
    let setup = Setup::with("both", |settings| settings.part = 10_000);
    std::thread::scope(|scope| {
        let both = [(); 2].map(|()| scope.spawn(|| setup.fetch(None).unwrap()));
        for fetch in both {
            Model::open(&fetch.join().unwrap()).unwrap();
        }
    });
    let mut ranges = setup.ranges("model.safetensors");
    let all = ranges.len();
    ranges.sort_unstable();
    ranges.dedup();
    assert_eq!(ranges.len(), all, "a range was asked for twice");
    assert_eq!(setup.leftovers(), Vec::<PathBuf>::new());
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing_half() {
    let setup = Setup::new("both");
    let disk = setup.dir.path().join("disk");
    fs::create_dir(&disk).unwrap();
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=48k", "tmpfs"]).arg(&disk).output();
    if !mounted.is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine does not let the test mount a small file system");
        return;
    }
    let settings = Settings { cache: disk.clone(), ..setup.settings.clone() };
    let result = Hub::new(settings).fetch(&"org/model".parse().unwrap(), None, &Silent::default());
    let found = files(&disk);
    assert!(Command::new("umount").arg(&disk).status().unwrap().success());
    let error = result.unwrap_err();
    let size = fs::metadata(fixture("both").join("model.safetensors")).unwrap().len();
    assert!(matches!(&error, HubError::DiskFull { needed, .. } if *needed == size), "{error}");
    let message = error.to_string();
    assert!(message.contains(disk.to_str().unwrap()) && message.contains(&size.to_string()), "{message}");
    assert!(
        !found
            .iter()
            .any(|file| file.ends_with("model.safetensors") || file.to_string_lossy().contains(".siglip."))
    );
}

// ---- Helpers.

/// A stand-in with the files of a fixture, and an empty cache.
struct Setup {
    hub: StandIn,
    settings: Settings,
    dir: TempDir,
}

impl Setup {
    fn new(name: &str) -> Setup {
        Self::with(name, |_| {})
    }

    fn with(name: &str, change: impl FnOnce(&mut Settings)) -> Setup {
        let files = fs::read_dir(fixture(name)).unwrap().map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())
        });
        let hub = StandIn::start(files.chain([("notes.txt".to_owned(), b"of no use".to_vec())]));
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(&hub.endpoint, dir.path().join("hub"));
        change(&mut settings);
        Setup { hub, settings, dir }
    }

    fn fetch(&self, tower: Option<Tower>) -> Result<PathBuf, HubError> {
        let hub = Hub::new(self.settings.clone());
        let fetched = hub.fetch(&"org/model".parse().unwrap(), tower, &Silent::default())?;
        Ok(fetched.folder)
    }

    fn get(&self) -> Result<PathBuf, HubError> {
        let hub = Hub::new(self.settings.clone());
        Ok(hub.get(&"org/model".parse().unwrap(), &Silent::default())?.folder)
    }

    fn cache(&self) -> &Path {
        &self.settings.cache
    }

    fn snapshot(&self) -> PathBuf {
        self.cache().join("models--org--model/snapshots").join(COMMIT)
    }

    /// The ranges of a large file's bytes that were asked for.
    fn ranges(&self, name: &str) -> Vec<(u64, u64)> {
        let asked = self.hub.asked();
        let gets =
            asked.iter().filter(|asked| asked.cdn && asked.path.starts_with(&format!("/large/{name}")));
        gets.filter_map(|asked| asked.range).collect()
    }

    fn weight_ranges(&self) -> Vec<(u64, u64)> {
        self.hub.asked().iter().filter(|asked| asked.cdn).filter_map(|asked| asked.range).collect()
    }

    /// What a whole fetch must not leave behind: anything unfinished.
    fn leftovers(&self) -> Vec<PathBuf> {
        let unfinished = |file: &PathBuf| {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            name.contains(".siglip.") || name.ends_with(".tmp")
        };
        files(self.cache()).into_iter().filter(unfinished).collect()
    }

    fn whole_blobs(&self) -> Vec<PathBuf> {
        let blobs = files(&self.cache().join("models--org--model/blobs"));
        blobs.into_iter().filter(|file| !file.to_string_lossy().contains(".siglip.")).collect()
    }

    fn whole_blobs_but(&self, name: &str) -> Vec<PathBuf> {
        let etag = etag(name, &fs::read(fixture("both").join(name)).unwrap());
        self.whole_blobs().into_iter().filter(|blob| !blob.ends_with(&etag)).collect()
    }
}

#[derive(Default)]
struct Silent(Mutex<Vec<String>>);

impl Progress for Silent {
    fn start(&self, _: &str, _: u64, _: u64) {}
    fn advance(&self, _: u64) {}
    fn finish(&self) {}
    fn note(&self, sentence: &str) {
        self.0.lock().unwrap().push(sentence.to_owned());
    }
}

fn settings(endpoint: &str, cache: PathBuf) -> Settings {
    let moment = Duration::from_secs(20);
    let patience =
        Patience { attempts: 3, pause: Duration::from_millis(1), connect: moment, silence: moment };
    let endpoint = endpoint.to_owned();
    Settings { endpoint, cache, token: None, offline: false, connections: 4, part: 16 << 20, patience }
}

/// The tensors that engines read.
fn numbers(weights: &Weights) -> impl Iterator<Item = &str> {
    weights.names().filter(|name| !name.ends_with("position_ids"))
}

fn open_weights(folder: &Path) -> Weights {
    let open_clip = folder.join("open_clip_model.safetensors");
    if open_clip.is_file() { Weights::open_file(&open_clip) } else { Weights::open(folder) }.unwrap()
}

fn open(folder: &Path) -> Model {
    Model::open(folder).unwrap()
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/models").join(name)
}

/// The tokenizer of the demo model.
fn spiece() -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../demo/model/spiece.model")).unwrap()
}

/// All files below a folder, links not followed.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found.sort();
    found
}
