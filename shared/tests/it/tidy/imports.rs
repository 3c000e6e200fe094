//! Reads from a source text which paths it uses, and on which lines.

use std::collections::HashMap;

use proc_macro2::{TokenStream, TokenTree};
use syn::{
    Attribute, Block, ExprPath, File, ImplItem, Item, ItemMod, ItemUse, Macro, Meta, MetaList, Path, Stmt,
    TraitItem, Type, TypePath, UseTree, Visibility,
    punctuated::Punctuated,
    spanned::Spanned,
    visit::{self, Visit},
    visit_mut::{self, VisitMut},
};

/// A source file outside its tests.
#[derive(Debug)]
pub(super) struct Source {
    /// The crate's folder, such as `gateway`.
    pub(super) krate: String,
    /// The path below the crate's `src`, such as `http/door.rs`.
    pub(super) file: String,
    /// Its lines, without those of items under `#[cfg(test)]`.
    pub(super) lines: usize,
    /// Every path it uses.
    pub(super) imports: Vec<Import>,
}

/// A path that a file uses.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Import {
    /// Absolute: begins with `crate` or the name of another crate. A glob ends with `*`.
    pub(super) path: String,
    pub(super) line: usize,
}

impl Source {
    /// Reads `text`, which is at `file` below the `src` of `krate`.
    pub(super) fn read(krate: &str, file: &str, text: &str) -> Self {
        let mut tree = syn::parse_file(text).map_err(|e| format!("{krate}/src/{file}: {e}")).unwrap();
        let mut pruned = Pruned::default();
        if is_test(&tree.attrs) {
            tree.items.clear();
        }
        pruned.visit_file_mut(&mut tree);
        let module = module_of(file).into_iter().map(str::to_owned).collect();
        let mut reader = Reader { module, aliases: Vec::new(), imports: Vec::new() };
        reader.scope(&tree.items, |reader| visit::visit_file(reader, &tree));
        let mut imports = reader.imports;
        imports.sort_by(|a, b| (a.line, &a.path).cmp(&(b.line, &b.path)));
        imports.dedup();
        let lines = text.lines().count() - pruned.lines;
        Self { krate: krate.to_owned(), file: file.to_owned(), lines, imports }
    }

    /// The path below the root of the tree.
    pub(super) fn path(&self) -> String {
        format!("{}/src/{}", self.krate, self.file)
    }
}

/// The modules a file stands for: `a/b.rs` is `a::b`, the crate's root is empty.
pub(super) fn module_of(file: &str) -> Vec<&str> {
    match file.trim_end_matches(".rs") {
        "lib" | "main" => Vec::new(),
        name => name.trim_end_matches("/mod").split('/').collect(),
    }
}

/// Whether `#[cfg(test)]`, or a `cfg(all(...))` with `test` in it, is among the attributes.
fn is_test(attributes: &[Attribute]) -> bool {
    fn holds_test(meta: &Meta) -> bool {
        match meta {
            Meta::Path(path) => path.is_ident("test"),
            Meta::List(list) if list.path.is_ident("all") => list
                .parse_args_with(Punctuated::<Meta, syn::Token![,]>::parse_terminated)
                .is_ok_and(|all| all.iter().any(holds_test)),
            _ => false,
        }
    }
    attributes
        .iter()
        .filter(|a| a.path().is_ident("cfg"))
        .any(|a| a.parse_args::<Meta>().is_ok_and(|meta| holds_test(&meta)))
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(i) => &i.attrs,
        Item::Enum(i) => &i.attrs,
        Item::ExternCrate(i) => &i.attrs,
        Item::Fn(i) => &i.attrs,
        Item::ForeignMod(i) => &i.attrs,
        Item::Impl(i) => &i.attrs,
        Item::Macro(i) => &i.attrs,
        Item::Mod(i) => &i.attrs,
        Item::Static(i) => &i.attrs,
        Item::Struct(i) => &i.attrs,
        Item::Trait(i) => &i.attrs,
        Item::TraitAlias(i) => &i.attrs,
        Item::Type(i) => &i.attrs,
        Item::Union(i) => &i.attrs,
        Item::Use(i) => &i.attrs,
        _ => &[],
    }
}

/// Takes what is under `#[cfg(test)]` out of a tree, and counts its lines.
#[derive(Default)]
struct Pruned {
    lines: usize,
}

impl Pruned {
    fn keeps(&mut self, attributes: &[Attribute], item: &impl Spanned) -> bool {
        if !is_test(attributes) {
            return true;
        }
        let span = item.span();
        self.lines += span.end().line + 1 - span.start().line;
        false
    }
}

impl VisitMut for Pruned {
    fn visit_file_mut(&mut self, file: &mut File) {
        file.items.retain(|item| self.keeps(attributes(item), item));
        visit_mut::visit_file_mut(self, file);
    }

    fn visit_item_mod_mut(&mut self, module: &mut ItemMod) {
        if let Some((_, items)) = &mut module.content {
            items.retain(|item| self.keeps(attributes(item), item));
        }
        visit_mut::visit_item_mod_mut(self, module);
    }

    fn visit_item_impl_mut(&mut self, block: &mut syn::ItemImpl) {
        block.items.retain(|item| match item {
            ImplItem::Fn(f) => self.keeps(&f.attrs, f),
            ImplItem::Const(c) => self.keeps(&c.attrs, c),
            ImplItem::Type(t) => self.keeps(&t.attrs, t),
            _ => true,
        });
        visit_mut::visit_item_impl_mut(self, block);
    }

    fn visit_item_trait_mut(&mut self, block: &mut syn::ItemTrait) {
        block.items.retain(|item| match item {
            TraitItem::Fn(f) => self.keeps(&f.attrs, f),
            _ => true,
        });
        visit_mut::visit_item_trait_mut(self, block);
    }

    fn visit_block_mut(&mut self, block: &mut Block) {
        block.stmts.retain(|statement| match statement {
            Stmt::Item(item) => self.keeps(attributes(item), item),
            Stmt::Local(local) => self.keeps(&local.attrs, local),
            _ => true,
        });
        visit_mut::visit_block_mut(self, block);
    }
}

/// What a name can stand for in a module. More than one path if functions import differently.
type Aliases = HashMap<String, Vec<Vec<String>>>;

/// Collects the names that one module imports or declares, those inside its functions included.
struct Names(Aliases);

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        expand(item, &mut |path, name, _| {
            if name != "*" && name != "_" && path.first().is_some_and(|first| path.len() > 1 || first != name)
            {
                self.0.entry(name.to_owned()).or_default().push(path.to_vec());
            }
        });
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        let name = module.ident.to_string();
        self.0.entry(name.clone()).or_default().push(vec!["self".to_owned(), name]);
    }

    fn visit_item_type(&mut self, item: &'ast syn::ItemType) {
        if let Type::Path(TypePath { qself: None, path }) = &*item.ty {
            self.0.entry(item.ident.to_string()).or_default().push(segments(path));
        }
    }
}

/// Calls `found` with the path, the name and the line of each leaf of a `use`.
fn expand(item: &ItemUse, found: &mut dyn FnMut(&[String], &str, usize)) {
    fn walk(tree: &UseTree, path: &mut Vec<String>, found: &mut dyn FnMut(&[String], &str, usize)) {
        let line = tree.span().start().line;
        let depth = path.len();
        match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                walk(&tree.tree, path, found);
            }
            UseTree::Group(group) => group.items.iter().for_each(|tree| walk(tree, path, found)),
            UseTree::Name(tree) if tree.ident == "self" && depth > 0 => {
                let name = path.last().cloned().unwrap_or_default();
                found(path, &name, line);
            }
            UseTree::Rename(tree) if tree.ident == "self" && depth > 0 => {
                found(path, &tree.rename.to_string(), line);
            }
            UseTree::Name(tree) => {
                path.push(tree.ident.to_string());
                found(path, &tree.ident.to_string(), line);
            }
            UseTree::Rename(tree) => {
                path.push(tree.ident.to_string());
                found(path, &tree.rename.to_string(), line);
            }
            UseTree::Glob(_) => {
                path.push("*".to_owned());
                found(path, "*", line);
            }
        }
        path.truncate(depth);
    }
    let mut path = if item.leading_colon.is_some() { vec![String::new()] } else { Vec::new() };
    walk(&item.tree, &mut path, found);
}

/// The names of a path; an empty one first stands for a leading `::`.
fn segments(path: &Path) -> Vec<String> {
    let leading = path.leading_colon.map(|_| String::new());
    leading.into_iter().chain(path.segments.iter().map(|s| s.ident.to_string())).collect()
}

struct Reader {
    /// Where the reader is, inline modules included.
    module: Vec<String>,
    /// The names of each module around, the innermost last.
    aliases: Vec<Aliases>,
    imports: Vec<Import>,
}

impl Reader {
    /// Reads with the names of these items.
    fn scope(&mut self, items: &[Item], read: impl FnOnce(&mut Self)) {
        let mut names = Names(Aliases::new());
        for item in items {
            names.visit_item(item);
        }
        self.aliases.push(names.0);
        read(self);
        self.aliases.pop();
    }

    /// The absolute paths that these names may stand for.
    fn resolve(&self, path: &[String], depth: usize) -> Vec<Vec<String>> {
        let own = || std::iter::once("crate".to_owned()).chain(self.module.iter().cloned());
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        match first.as_str() {
            "" => vec![rest.to_vec()],
            "crate" => vec![path.to_vec()],
            "Self" => Vec::new(),
            "self" => vec![own().chain(rest.iter().cloned()).collect()],
            "super" => {
                let ups = path.iter().take_while(|s| *s == "super").count();
                let keep = (self.module.len() + 1).saturating_sub(ups).max(1);
                vec![own().take(keep).chain(path.iter().skip(ups).cloned()).collect()]
            }
            name => match self.aliases.last().and_then(|names| names.get(name)) {
                Some(targets) if depth < 8 => targets
                    .iter()
                    .flat_map(|target| {
                        let full: Vec<String> = target.iter().chain(rest).cloned().collect();
                        // `use tokio;` stands for itself.
                        if full == path { vec![full] } else { self.resolve(&full, depth + 1) }
                    })
                    .collect(),
                _ => vec![path.to_vec()],
            },
        }
    }

    fn add(&mut self, path: &[String], line: usize) {
        for path in self.resolve(path, 0) {
            self.imports.push(Import { path: path.join("::"), line });
        }
    }

    fn add_use(&mut self, item: &ItemUse) {
        expand(item, &mut |path, _, line| self.add(path, line));
    }

    /// Finds the paths, and the `use` items, among tokens that only a macro understands.
    fn scan(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let is = |at: usize, mark: char| matches!(tokens.get(at), Some(TokenTree::Punct(p)) if p.as_char() == mark);
        let colons = |at: usize| is(at, ':') && is(at + 1, ':');
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Group(group) => self.scan(group.stream()),
                TokenTree::Ident(name) if name == "use" => {
                    let end = (at..tokens.len()).find(|i| is(*i, ';')).unwrap_or(tokens.len());
                    let item = tokens.iter().take(end + 1).skip(at - 1).cloned().collect();
                    if let Ok(item) = syn::parse2::<ItemUse>(item) {
                        self.add_use(&item);
                        at = end;
                    }
                }
                TokenTree::Ident(name) => {
                    let mut path = vec![name.to_string()];
                    while colons(at)
                        && let Some(TokenTree::Ident(next)) = tokens.get(at + 2)
                    {
                        path.push(next.to_string());
                        at += 3;
                    }
                    if path.len() > 1 {
                        self.add(&path, name.span().start().line);
                    }
                }
                _ => {}
            }
        }
    }

    /// `<Instant>::now` is `Instant::now`.
    fn add_qualified(&mut self, qself: Option<&syn::QSelf>, path: &Path) {
        if let Some(syn::QSelf { ty, position: 0, .. }) = qself
            && let Type::Path(TypePath { qself: None, path: base }) = &**ty
        {
            let full: Vec<String> =
                segments(base).into_iter().chain(path.segments.iter().map(|s| s.ident.to_string())).collect();
            self.add(&full, base.span().start().line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_use(item);
    }

    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if let Some((_, items)) = &module.content {
            self.module.push(module.ident.to_string());
            self.scope(items, |reader| visit::visit_item_mod(reader, module));
            self.module.pop();
        }
    }

    fn visit_path(&mut self, path: &'ast Path) {
        let names = segments(path);
        if names.len() > 1 {
            self.add(&names, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_path(&mut self, expression: &'ast ExprPath) {
        self.add_qualified(expression.qself.as_ref(), &expression.path);
        visit::visit_expr_path(self, expression);
    }

    fn visit_type_path(&mut self, path: &'ast TypePath) {
        self.add_qualified(path.qself.as_ref(), &path.path);
        visit::visit_type_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        visit::visit_macro(self, call);
        self.scan(call.tokens.clone());
    }

    fn visit_meta_list(&mut self, list: &'ast MetaList) {
        visit::visit_meta_list(self, list);
        self.scan(list.tokens.clone());
    }

    /// `pub(in crate::a)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}
