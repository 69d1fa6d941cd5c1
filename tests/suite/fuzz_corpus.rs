//! Every seed of the fuzz targets, and all that fuzzing ever found, through the very bodies that are
//! fuzzed.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../../fuzz/targets/mod.rs"]
mod targets;

const FUZZ: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz");
/// Seeds are chosen, not collected.
const FILES_MAX: usize = 60;
const BYTES_MAX: u64 = 16 * 1024;

#[test]
fn nothing_that_was_ever_found_is_found_again() {
    let mut seen = 0;
    for (name, _) in targets::TARGETS {
        let files: Vec<_> = Path::new(FUZZ).join("corpus").join(name).read_dir().unwrap().collect();
        assert!((5..=FILES_MAX).contains(&files.len()), "{name} has {} files", files.len());
        for file in files {
            let path = file.unwrap().path();
            let data = fs::read(&path).unwrap();
            assert!(data.len() as u64 <= BYTES_MAX, "{} is long", path.display());
            assert!(catch_unwind(|| targets::run(name, &data)).is_ok(), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen >= 200, "{seen}");
}

#[test]
fn every_target_has_its_binary_and_its_corpus() {
    let targets: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), targets::TARGETS.len());
    let manifest: toml::Table =
        fs::read_to_string(Path::new(FUZZ).join("Cargo.toml")).unwrap().parse().unwrap();
    let binaries: BTreeSet<String> = manifest["bin"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(binaries, targets);
    let folders = Path::new(FUZZ).join("corpus").read_dir().unwrap();
    let folders: BTreeSet<String> =
        folders.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(folders, targets);
}
