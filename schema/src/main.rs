//! Writes the install script: the schema that the library carries in its
//! `.pgrxsc` section, put in order by pgrx.

use eyre::{OptionExt, Result, WrapErr, bail, eyre};
use object::{Object, ObjectSection};
use pgrx_sql_entity_graph::section::{ELF_SECTION_NAME, MACHO_SECTION_NAME, decode_entities};
use pgrx_sql_entity_graph::{ControlFile, PgrxSql, SqlGraphEntity};
use std::path::{Path, PathBuf};

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [library, control, script] = arguments.as_slice() else {
        bail!("usage: keysmith-schema LIBRARY CONTROL SCRIPT");
    };
    let sql = install_script(library, control)?;
    std::fs::write(script, sql).wrap_err_with(|| format!("can't write {}", script.display()))
}

fn install_script(library: &Path, control: &Path) -> Result<String> {
    let bytes =
        std::fs::read(library).wrap_err_with(|| format!("can't read {}", library.display()))?;
    let object = object::File::parse(&*bytes)?;
    let section = object
        .section_by_name(ELF_SECTION_NAME)
        .or_else(|| object.section_by_name(MACHO_SECTION_NAME))
        .ok_or_eyre("the library carries no schema: was the section dropped by the linker?")?;
    let mut entities = decode_entities(section.data()?)?;
    let pieces =
        entities.iter().filter(|entity| matches!(entity, SqlGraphEntity::CustomSql(_))).count();
    let files = files(&control.with_file_name("sql/install"))?;
    if pieces != files {
        bail!("the library carries {pieces} pieces of SQL, and sql/install has {files} files");
    }
    let control = ControlFile::try_from(std::fs::read_to_string(control)?.as_str())
        .map_err(|error| eyre!("{}: {error}", control.display()))?;
    entities.push(SqlGraphEntity::ExtensionRoot(control));
    PgrxSql::build(entities.into_iter(), "keysmith".into(), false)?.to_sql()
}

/// How many files a folder has, and the folders in it.
fn files(folder: &Path) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        count += if path.is_dir() { files(&path)? } else { 1 };
    }
    Ok(count)
}
