//! What the README shows is what is run.

const README: &str = include_str!("../README.md");
const HELLO: &str = include_str!("../examples/hello.rs");

#[test]
fn the_readme_shows_the_hello_that_is_run_and_it_fits_in_20_lines() {
    assert!(README.contains(&format!("```rust\n{HELLO}```")), "README.md and examples/hello.rs differ");
    assert!(HELLO.lines().count() <= 20);
}

#[test]
fn everything_that_the_readme_names_is_there() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let named = README.split(['`', '(', ')', ':', ' ', ',']).filter(|word| word.contains('/') || word.ends_with(".md"));
    for path in
        named.filter(|word| word.starts_with("tests/") || word.starts_with("examples/") || word.ends_with(".md"))
    {
        assert!(root.join(path).exists(), "README.md names {path}");
    }
}
