//! CREATE, ALTER and DROP: what no visitor is shown, and what would outlive the statement.
//!
//! What stands in a definition runs later: a default at each insert, a check at each write, an index expression, a
//! view's query. The visitor has seen those expressions. Here are the names and options beside them. A definition
//! refers to the projection's own tables alone: a view on somebody else's, or a foreign key to it, would keep its owner
//! from dropping it; and CASCADE would drop what others have built on the projection's.

use sqlparser::ast::helpers::stmt_create_table::CreateTableBuilder;
use sqlparser::ast::{
    AlterColumnOperation, AlterIndexOperation, AlterTable, AlterTableOperation, ColumnDef, ColumnOption, CreateIndex,
    CreateTable, CreateTableOptions, CreateView, DropBehavior, IndexColumn, IndexType, ObjectName, RenameTableNameKind,
    Statement, TableConstraint,
};
use sqlparser::tokenizer::Token;

use super::super::value::Dialect;
use super::tree::{FINE, Judge, Use, Verdict, operation, refuse, refuse_if};
use super::types::name_alone;

/// Why CASCADE is refused.
const CASCADE: &str = "CASCADE would also drop what others built on it: drop what depends on it first, by name";

impl Judge<'_> {
    /// A statement of `migrate`, besides what the visitor is shown.
    pub(super) fn definition(&self, statement: &Statement) -> Verdict {
        match statement {
            Statement::Drop { names, cascade, .. } => {
                refuse_if(*cascade, CASCADE)?;
                names.iter().try_for_each(|name| self.name(name, Use::Own))
            }
            Statement::AlterIndex { name, operation: AlterIndexOperation::RenameIndex { index_name } } => {
                self.name(name, Use::Own)?;
                self.name(index_name, Use::Own)
            }
            Statement::CreateTable(table) => self.create_table(table),
            Statement::CreateIndex(index) => self.create_index(index),
            Statement::CreateView(view) => create_view(view),
            Statement::AlterTable(table) => self.alter_table(table),
            _ => FINE,
        }
    }

    /// CREATE TABLE.
    fn create_table(&self, table: &CreateTable) -> Verdict {
        // Its rows would go with a crash, and the checkpoint would stay.
        refuse_if(table.unlogged, "a projection's tables are logged: leave UNLOGGED out")?;
        table.columns.iter().try_for_each(|column| self.column(column))?;
        table.constraints.iter().try_for_each(|constraint| self.constraint(constraint))?;
        // Whatever else a CREATE TABLE can have must be as it is when nothing is said.
        let mut plain = CreateTableBuilder::new(table.name.clone()).build();
        plain.if_not_exists = table.if_not_exists;
        plain.columns.clone_from(&table.columns);
        plain.constraints.clone_from(&table.constraints);
        plain.query.clone_from(&table.query);
        if self.dialect == Dialect::Sqlite {
            plain.without_rowid = table.without_rowid;
            plain.strict = table.strict;
        }
        refuse_if(
            plain != *table,
            "CREATE TABLE takes columns, constraints or a query, and no other clause (INHERITS, LIKE, TEMPORARY, PARTITION, WITH, …)",
        )
    }

    /// A column and its options.
    fn column(&self, column: &ColumnDef) -> Verdict {
        self.data_type(&column.data_type)?;
        column.options.iter().try_for_each(|option| match &option.option {
            ColumnOption::ForeignKey(key) => self.name(&key.foreign_table, Use::Own),
            ColumnOption::Collation(name) => self.collation(name),
            ColumnOption::DialectSpecific(tokens) => {
                let autoincrement = tokens.iter().all(|token| match token {
                    Token::Word(word) => word.quote_style.is_none() && word.value.eq_ignore_ascii_case("autoincrement"),
                    _ => false,
                });
                refuse_if(!autoincrement, &format!("a projection may not write `{}`", option.option))
            }
            ColumnOption::Null
            | ColumnOption::NotNull
            | ColumnOption::Default(_)
            | ColumnOption::PrimaryKey(_)
            | ColumnOption::Unique(_)
            | ColumnOption::Check(_)
            | ColumnOption::Generated { .. } => FINE,
            // SQLite's ON CONFLICT among them, which could say ROLLBACK.
            other => refuse(format!("a projection may not write `{other}` for a column")),
        })
    }

    /// A constraint of a table.
    fn constraint(&self, constraint: &TableConstraint) -> Verdict {
        match constraint {
            TableConstraint::ForeignKey(key) => self.name(&key.foreign_table, Use::Own),
            TableConstraint::Unique(_) | TableConstraint::PrimaryKey(_) | TableConstraint::Check(_) => FINE,
            other => refuse(format!("a projection may not write the constraint `{other}`")),
        }
    }

    /// CREATE INDEX.
    fn create_index(&self, index: &CreateIndex) -> Verdict {
        index.name.iter().try_for_each(|name| self.name(name, Use::Own))?;
        refuse_if(index.concurrently, "an index is made in the transaction of `migrate`: leave CONCURRENTLY out")?;
        let odd = index.r#async
            || !index.with.is_empty()
            || !index.index_options.is_empty()
            || !index.alter_options.is_empty()
            || matches!(index.using, Some(IndexType::Custom(_) | IndexType::Bloom));
        refuse_if(odd, "CREATE INDEX takes a method, columns, INCLUDE and WHERE, and no other clause")?;
        index.columns.iter().try_for_each(|column| self.index_column(column))
    }

    /// A column of an index: an operator class is found as a type is.
    fn index_column(&self, column: &IndexColumn) -> Verdict {
        let Some(class) = &column.operator_class else { return FINE };
        let known = name_alone(class, self.dialect).is_some_and(|class| class.ends_with("_ops"));
        refuse_if(!known, &format!("a projection may not use the operator class `{class}`"))
    }

    /// ALTER TABLE.
    fn alter_table(&self, table: &AlterTable) -> Verdict {
        let odd = table.location.is_some() || table.on_cluster.is_some() || table.table_type.is_some();
        refuse_if(odd, "a projection may not run this kind of ALTER TABLE")?;
        table.operations.iter().try_for_each(|one| match one {
            AlterTableOperation::AddConstraint { constraint, .. } => self.constraint(constraint),
            AlterTableOperation::AddColumn { column_def, .. } => self.column(column_def),
            AlterTableOperation::DropColumn { drop_behavior, .. }
            | AlterTableOperation::DropConstraint { drop_behavior, .. } => {
                refuse_if(matches!(drop_behavior, Some(DropBehavior::Cascade)), CASCADE)
            }
            AlterTableOperation::RenameColumn { .. } => FINE,
            AlterTableOperation::RenameTable { table_name } => {
                let (RenameTableNameKind::As(name) | RenameTableNameKind::To(name)) = table_name;
                self.renamed(name)
            }
            AlterTableOperation::AlterColumn { op, .. } => match op {
                AlterColumnOperation::SetDataType { data_type, .. } => self.data_type(data_type),
                AlterColumnOperation::SetNotNull
                | AlterColumnOperation::DropNotNull
                | AlterColumnOperation::SetDefault { .. }
                | AlterColumnOperation::DropDefault
                | AlterColumnOperation::AddGenerated { .. } => FINE,
            },
            other => refuse(format!("a projection may not run `ALTER TABLE … {}`", operation(other))),
        })
    }

    /// The new name of a table.
    fn renamed(&self, name: &ObjectName) -> Verdict {
        refuse_if(name.0.len() > 1, "a table is renamed to a name without a schema")?;
        self.name(name, Use::Own)
    }
}

/// CREATE VIEW.
fn create_view(view: &CreateView) -> Verdict {
    let odd = view.or_alter
        || view.secure
        || view.options != CreateTableOptions::None
        || !view.cluster_by.is_empty()
        || view.with_no_schema_binding
        || view.temporary
        || view.copy_grants
        || view.to.is_some()
        || view.params.is_some()
        || view.columns.iter().any(|column| column.data_type.is_some() || column.options.is_some());
    refuse_if(odd, "CREATE VIEW takes names of columns and a query, and no other clause (TEMPORARY, WITH, …)")
}
