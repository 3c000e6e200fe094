//! The commands of the workers in `examples/workers`, with what they need fetched once into `target/workers`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Mutex,
};

use tidegate_cli::stack::Stack;

/// The folder of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// One fetch at a time.
static FETCHING: Mutex<()> = Mutex::new(());

/// Fetches what a tool or a worker needs into `target/workers/<name>`, unless it is there from the same list in `source`.
pub(crate) fn fetched(name: &str, source: &Path, list: &str, fetch: impl FnOnce(&Path, &Path)) -> PathBuf {
    let _one = FETCHING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let into = root().join("target/workers").join(name);
    let (wanted, mark) = (fs::read(source.join(list)).unwrap(), into.join("fetched"));
    if fs::read(&mark).ok().as_ref() != Some(&wanted) {
        let _ = fs::remove_dir_all(&into);
        fs::create_dir_all(&into).unwrap();
        fetch(source, &into);
        fs::write(mark, wanted).unwrap();
    }
    into
}

/// Runs a tool. Panics with what is missing.
pub(crate) fn run(tool: &str, arguments: &[&str], dir: &Path) {
    let output = Command::new(tool).args(arguments).current_dir(dir).output();
    let output = output.unwrap_or_else(|error| panic!("the tests of workers need {tool}: {error}"));
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{tool} {arguments:?}: {}", String::from_utf8_lossy(&text));
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The worker in Python, run by these lines.
pub(super) fn python(lines: &str) -> Vec<String> {
    let source = root().join("examples/workers/python");
    let packages = fetched("python", &source, "requirements.txt", |source, into| {
        let list = text(&source.join("requirements.txt"));
        let target = text(into);
        let arguments = "-m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
            --require-hashes --only-binary=:all: --target";
        let arguments: Vec<_> = arguments.split_whitespace().chain([&*target, "-r", &list]).collect();
        run("python3", &arguments, source);
    });
    let path = format!("PYTHONPATH={}:{}", packages.display(), source.display());
    let code = format!("import tide, worker\n{lines}");
    ["env", "PYTHONDONTWRITEBYTECODE=1", &path, "python3", "-c", &code].map(str::to_owned).into()
}

/// Copies files from folder to folder.
pub(crate) fn copy(source: &Path, into: &Path, names: &[&str]) {
    for name in names {
        fs::copy(source.join(name), into.join(name)).unwrap();
    }
}

/// The worker in Node.
pub(super) fn node() -> Vec<String> {
    let source = root().join("examples/workers/node");
    let dir = fetched("node", &source, "package-lock.json", |source, into| {
        copy(source, into, &["package.json", "package-lock.json", ".npmrc"]);
        run("npm", &["ci", "--ignore-scripts"], into);
    });
    // Node looks for packages beside the sources.
    copy(&source, &dir, &["tide.js", "worker.js"]);
    vec!["node".to_owned(), text(&dir.join("worker.js"))]
}

/// The worker in Go.
pub(super) fn go() -> Vec<String> {
    let source = root().join("examples/workers/go");
    let program = text(&fetched("go", &source, "go.sum", |_, _| {}).join("worker"));
    // Go itself fetches what is missing, and knows what is built already.
    run("go", &["build", "-o", &program], &source);
    vec![program]
}

/// The worker in Java.
pub(super) fn java() -> Vec<String> {
    let source = root().join("examples/workers/java");
    let dir = fetched("java", &source, "pom.xml", |source, into| {
        copy(source, into, &["pom.xml"]);
        let folder = format!("-DoutputDirectory={}", into.join("lib").display());
        run("mvn", &["-q", "-B", "dependency:copy-dependencies", &folder, "-DincludeScope=runtime"], into);
    });
    let (lib, classes) = (format!("{}/*", dir.join("lib").display()), text(&dir.join("classes")));
    run("javac", &["--release", "17", "-cp", &lib, "-d", &classes, "Main.java", "Tide.java"], &source);
    ["java", "-cp", &format!("{classes}:{lib}"), "Main"].map(str::to_owned).into()
}

/// A worker of the library in Rust. It reads the configuration's file; the broker of the stack has another port.
pub(super) fn rust(stack: &Stack) -> Vec<String> {
    let config = format!("TIDEGATE_CONFIG={}", root().join("examples/workers/tidegate.toml").display());
    let url = format!("TIDEGATE_NATS__URL={}", stack.config().nats.url);
    // Tests run from target/<profile>/deps.
    let tests = std::env::current_exe().unwrap();
    let program = text(&tests.parent().unwrap().with_file_name("conformance-worker"));
    ["env", &config, &url, &program, "--internal", "127.0.0.1:0"].map(str::to_owned).into()
}
