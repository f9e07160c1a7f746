//! What is wanted of the background process: files with the groups that were asked for, and single forwards beside them.
//! Every change is laid out as the whole list that the engine is to make true.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    engine::Engine,
    protocol::{AddRequest, UpRequest, Which},
    told::Told,
    wish::{Means, Wish},
};
use crate::{
    cli::{
        args::ClusterArgs,
        settings::{ListenAddress, UsageError, parse_addresses},
        wanted::{Wanted, check_each_address},
    },
    error::Error,
    output::Output,
    relay_file::{Defaults, RelayFile, nearest},
    target::parse_arguments,
};

/// Everything that is wanted.
pub struct Desk {
    engine: Engine,
    output: Arc<Output>,
    verbosity: u8,
    files: BTreeMap<PathBuf, Source>,
    added: Vec<Wish>,
}

/// A file.
struct Source {
    cluster: ClusterArgs,
    /// What was read of it last.
    text: Option<String>,
    /// What was read once: whoever writes it may not have come to the end.
    begun: Option<String>,
    /// The last text that made sense.
    wishes: Vec<Wish>,
    groups: Vec<String>,
    /// Empty: all.
    selected: BTreeSet<String>,
    /// Groups and names that were ended one by one.
    ended: BTreeSet<String>,
    wrong: Option<Told>,
}

impl Source {
    fn wants(&self, wish: &Wish) -> bool {
        let group = wish.group.as_ref();
        let is_selected =
            self.selected.is_empty() || group.is_some_and(|group| self.selected.contains(group));
        let is_ended =
            self.ended.contains(&wish.name) || group.is_some_and(|group| self.ended.contains(group));
        is_selected && !is_ended
    }
}

/// Reads a file for the cluster of a command line.
fn read(
    path: &Path,
    text: &str,
    cluster: &ClusterArgs,
    verbosity: u8,
) -> Result<(RelayFile, Means), UsageError> {
    // Where there is no other word, the environment has it.
    let addresses = Defaults::default().settings(ClusterArgs::default(), 0)?.addresses;
    let file = RelayFile::parse(&path.display().to_string(), text, &addresses)?;
    let means = Means::new(&file.defaults, cluster, verbosity)?;
    Ok((file, means))
}

fn text_of(path: &Path) -> Result<String, Told> {
    fs::read_to_string(path).map_err(|error| Told {
        message: format!("cannot read {}: {error}", path.display()),
        hint: "name a file with -f, or write a relay.yaml here; docs/up.md shows one".into(),
        code: 2,
    })
}

/// Whether a request could be carried out, as far as its file tells.
///
/// # Errors
/// As [`Desk::up`].
pub fn check(request: &UpRequest) -> Result<(), Told> {
    let text = text_of(&request.file)?;
    let (file, _) = read(&request.file, &text, &request.cluster, 0).map_err(Error::from)?;
    check_groups(request, &file)
}

fn check_groups(request: &UpRequest, file: &RelayFile) -> Result<(), Told> {
    let unknown = request.groups.iter().find(|group| !file.groups.contains(group));
    let Some(unknown) = unknown else { return Ok(()) };
    let known: Vec<&str> = file.groups.iter().map(String::as_str).collect();
    let hint = match (nearest(unknown, &known), known.is_empty()) {
        (Some(near), _) => format!("did you mean {near}?"),
        (None, true) => "without a group, all of it is forwarded".into(),
        (None, false) => format!("it has {}", known.join(", ")),
    };
    let message = format!("{} has no group \"{unknown}\"", request.file.display());
    Err(Told { message, hint, code: 2 })
}

/// Whether the words of a request make sense.
///
/// # Errors
/// As [`Desk::add`].
pub fn check_words(request: &AddRequest) -> Result<(), Told> {
    wishes(request, 0).map_err(Error::from)?;
    Ok(())
}

/// What a request without a file comes to.
fn wishes(request: &AddRequest, verbosity: u8) -> Result<Vec<Wish>, UsageError> {
    let specs = parse_arguments(&request.words)?;
    let means = Means::new(&Defaults::default(), &request.cluster, verbosity)?;
    let addresses: Vec<ListenAddress> = match request.addresses.as_slice() {
        [] => means.settings.addresses.clone(),
        typed => parse_addresses(typed)?,
    };
    let wanted = |spec| Wanted { spec, namespace: None, context: None, addresses: addresses.clone() };
    let all: Vec<Wanted> = specs.into_iter().map(wanted).collect();
    check_each_address(&all)?;
    let each = |wanted: &Wanted| {
        let shown = wanted.spec.target.to_string();
        let own = shown.split_once('/').map_or(shown.as_str(), |(_, name)| name);
        Wish::each_port(request.name.as_deref().unwrap_or(own), None, wanted, &means)
    };
    Ok(all.iter().flat_map(each).collect())
}

impl Desk {
    /// Nothing is wanted yet.
    pub fn new(engine: Engine, output: Arc<Output>, verbosity: u8) -> Self {
        Self { engine, output, verbosity, files: BTreeMap::new(), added: Vec::new() }
    }

    /// Whose forwards they are.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.files.is_empty()
    }

    /// Lays out what is wanted. Gives the number of each forward of the wishes that `of` picks.
    fn apply(&self, of: impl Fn(Option<&Path>) -> bool) -> Vec<u64> {
        let of_files = self.files.iter().flat_map(|(path, source)| {
            let wanted = source.wishes.iter().filter(|wish| source.wants(wish));
            wanted.map(|wish| (Some(path.as_path()), wish.clone()))
        });
        let added = self.added.iter().map(|wish| (None, wish.clone()));
        let (of_which, wishes): (Vec<_>, Vec<_>) = of_files.chain(added).unzip();
        let ids = self.engine.apply(wishes);
        of_which.into_iter().zip(ids).filter(|(path, _)| of(*path)).map(|(_, id)| id).collect()
    }

    /// Forwards what a file says, and goes on doing so as it changes. Gives the numbers of its forwards.
    ///
    /// # Errors
    /// A file that cannot be read or makes no sense, and a group that it does not have: nothing is changed.
    pub fn up(&mut self, request: &UpRequest) -> Result<Vec<u64>, Told> {
        let UpRequest { file: path, groups, cluster, .. } = request;
        let text = text_of(path)?;
        let read = read(path, &text, cluster, self.verbosity).map_err(|error| Told::from(Error::from(error)));
        let (file, means) = read?;
        check_groups(request, &file)?;
        let before = self.files.remove(path);
        let (mut selected, mut ended) =
            before.map_or_else(|| (groups.clone(), BTreeSet::new()), |it| (it.selected, it.ended));
        if groups.is_empty() {
            selected.clear();
            ended.clear();
        } else if !selected.is_empty() {
            selected.extend(groups.iter().cloned());
        }
        let wishes = Wish::of_file(&file, &means);
        let asked = |wish: &Wish| {
            groups.is_empty() || wish.group.as_ref().is_some_and(|group| groups.contains(group))
        };
        for wish in wishes.iter().filter(|wish| asked(wish)) {
            ended.remove(&wish.name);
        }
        ended.retain(|name| !groups.contains(name));
        let source = Source {
            cluster: cluster.clone(),
            text: Some(text),
            begun: None,
            wishes,
            groups: file.groups,
            selected,
            ended,
            wrong: None,
        };
        self.files.insert(path.clone(), source);
        let ids = self.apply(|of| of == Some(path));
        let all = self.engine.all();
        let is_asked = |id: &u64| all.iter().any(|(known, wish)| known == id && asked(wish));
        Ok(ids.into_iter().filter(is_asked).collect())
    }

    /// Forwards one or more targets beside the files. Gives the numbers of theirs that are new.
    ///
    /// # Errors
    /// Words that make no sense: nothing is changed.
    pub fn add(&mut self, request: &AddRequest) -> Result<Vec<u64>, Told> {
        let wishes = wishes(request, self.verbosity).map_err(|error| Told::from(Error::from(error)))?;
        let keys: Vec<String> = wishes.iter().map(Wish::key).collect();
        let is_there = |wish: &Wish| self.added.iter().any(|known| known.key() == wish.key());
        let new: Vec<Wish> = wishes.into_iter().filter(|wish| !is_there(wish)).collect();
        self.added.extend(new);
        let ids = self.apply(|of| of.is_none());
        let asked = self.added.iter().zip(ids).filter(|(wish, _)| keys.contains(&wish.key()));
        Ok(asked.map(|(_, id)| id).collect())
    }

    /// Ends forwards, those of files until they are asked for again. Gives how many.
    ///
    /// # Errors
    /// A word that names none: nothing is changed.
    pub fn down(&mut self, which: &Which) -> Result<usize, Told> {
        let all = self.engine.all();
        if which.0.is_empty() {
            self.files.clear();
            self.added.clear();
            self.apply(|_| false);
            return Ok(all.len());
        }
        let mut numbers = BTreeSet::new();
        for word in &which.0 {
            let found = self.find(word)?;
            numbers.extend(found);
        }
        let is_ended = |id: &u64| numbers.contains(id);
        let gone: BTreeSet<String> =
            all.iter().filter(|(id, _)| is_ended(id)).map(|(_, wish)| wish.key()).collect();
        self.added.retain(|wish| !gone.contains(&wish.key()));
        for source in self.files.values_mut() {
            for word in &which.0 {
                if source.groups.contains(word) {
                    source.ended.insert(word.clone());
                }
            }
            let names = source.wishes.iter().filter(|wish| gone.contains(&wish.key()));
            let names: Vec<String> = names.map(|wish| wish.name.clone()).collect();
            let whole: &BTreeSet<String> = &source.ended;
            let names: Vec<String> = names
                .into_iter()
                .filter(|name| {
                    let of_group =
                        |wish: &Wish| wish.group.as_ref().is_some_and(|group| whole.contains(group));
                    source.wishes.iter().any(|wish| wish.name == *name && !of_group(wish))
                })
                .collect();
            source.ended.extend(names);
        }
        self.files.retain(|_, source| source.wishes.iter().any(|wish| source.wants(wish)));
        self.apply(|_| false);
        Ok(numbers.len())
    }

    /// The numbers of what a word names: a number, a name, a group, a target.
    fn find(&self, word: &str) -> Result<Vec<u64>, Told> {
        let all = self.engine.all();
        let is_it = |(id, wish): &&(u64, Arc<Wish>)| {
            id.to_string() == word
                || wish.name == word
                || wish.group.as_deref() == Some(word)
                || wish.wanted.spec.typed == word
        };
        let found: Vec<u64> = all.iter().filter(is_it).map(|(id, _)| *id).collect();
        if !found.is_empty() {
            return Ok(found);
        }
        let known: Vec<&str> = all
            .iter()
            .flat_map(|(_, wish)| [Some(wish.name.as_str()), wish.group.as_deref()].into_iter().flatten())
            .collect();
        let hint = match nearest(word, &known) {
            Some(near) => format!("did you mean {near}?"),
            None => "kubectl relay ls lists them with their numbers and names".into(),
        };
        Err(Told { message: format!("no forward is called \"{word}\""), hint, code: 2 })
    }

    /// Looks at every file again. One that is wrong now changes nothing but what is told of it.
    pub fn look(&mut self) {
        let mut has_changed = false;
        for (path, source) in &mut self.files {
            let text = text_of(path);
            // A file that is being replaced may be away for a moment: what is not there says nothing.
            let Ok(text) = text else {
                if source.text.take().is_some() {
                    let told = Told::new(
                        format!("{} is gone", path.display()),
                        "its forwards go on; write it again, or end them with kubectl relay down",
                    );
                    self.output.warning(&told.message, Some(&told.hint));
                    source.wrong = Some(told);
                }
                continue;
            };
            if source.text.as_ref() == Some(&text) {
                source.begun = None;
                continue;
            }
            // Half a file may be a valid one: only what is there twice counts.
            if source.begun.as_ref() != Some(&text) {
                source.begun = Some(text);
                continue;
            }
            source.begun = None;
            let read = read(path, &text, &source.cluster, self.verbosity);
            source.text = Some(text);
            match read {
                Ok((file, means)) => {
                    self.output.note(&format!("{} has changed", path.display()));
                    source.wishes = Wish::of_file(&file, &means);
                    source.groups = file.groups;
                    source.wrong = None;
                    has_changed = true;
                }
                Err(error) => {
                    let error = Error::from(error);
                    let message = format!("{error}; nothing is changed");
                    self.output.warning(&message, Some(&error.hint()));
                    source.wrong = Some(error.into());
                }
            }
        }
        if has_changed {
            self.apply(|_| false);
        }
    }

    /// The files in use, each with what is wrong with it now.
    pub fn files(&self) -> Vec<(PathBuf, Option<Told>)> {
        self.files.iter().map(|(path, source)| (path.clone(), source.wrong.clone())).collect()
    }
}
