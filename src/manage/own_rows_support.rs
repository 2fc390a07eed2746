//! What the planner asks about the two halves of a view: whether the reader sees everything,
//! and which bounds a query sets for the columns of the caller's rows.

use super::authority;
use super::own_rows::{BOUNDED, OPERATORS};
use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::planner::{Node, Operator, PlannerExpression, Simplify, commutator};
use pgrx::pg_sys::{self, Datum};

sql_functions! {
    keysmith_shows_everything_support => shows_everything_support;
    keysmith_own_rows_support => own_rows_support;
}

/// `false` in place of the call for who sees only a part. Who sees everything when the query
/// is planned may see less when it is run: for them the call stays.
fn shows_everything_support(call: &Call) -> Result<Option<Datum>> {
    Ok(Some(match Simplify::of(call) {
        Some(request) if authority::sight()?.tenants.is_some() => {
            request.boolean(false).into_datum()
        }
        _ => no_answer(),
    }))
}

/// Not an SQL null.
fn no_answer() -> Datum {
    Datum::null()
}

/// The call with the bounds that the query around it sets.
fn own_rows_support(call: &Call) -> Result<Option<Datum>> {
    let bounded = Simplify::of(call).and_then(|request| with_bounds(&request));
    Ok(Some(bounded.map_or(no_answer(), Node::into_datum)))
}

fn with_bounds<'a>(request: &Simplify<'a>) -> Option<Node<'a>> {
    let arguments = request.arguments();
    let [shown, bounds, ..] = arguments[..] else { return None };
    if !matches!(bounds.read(), PlannerExpression::Null) {
        return None;
    }
    let mut bounds = Bounds { request, pairs: Vec::new(), values: Default::default() };
    bounds.gather(&request.conditions()?);
    if bounds.pairs.is_empty() {
        return None;
    }
    let pairs = request.array(pg_sys::INT2OID, pg_sys::INT2ARRAYOID, &bounds.pairs);
    let values = BOUNDED.iter().zip(&bounds.values);
    let values = values.map(|((kind, kinds), values)| request.array(*kind, *kinds, values));
    let arguments: Vec<Node> = [shown, pairs].into_iter().chain(values).collect();
    Some(request.with_arguments(&arguments))
}

/// What `own_rows` reads as bounds.
struct Bounds<'r, 'a> {
    request: &'r Simplify<'a>,
    /// Numbers of columns and of operators.
    pairs: Vec<Node<'a>>,
    /// Values that columns are compared with, by their types.
    values: [Vec<Node<'a>>; BOUNDED.len()],
}

impl<'a> Bounds<'_, 'a> {
    /// Takes what all rows of the query must meet.
    fn gather(&mut self, node: &Node<'a>) {
        match node.read() {
            PlannerExpression::And(nodes) => nodes.iter().for_each(|node| self.gather(node)),
            PlannerExpression::Operator { operator, arguments } => {
                self.take(operator, &arguments);
            }
            _ => {}
        }
    }

    /// Takes a comparison of a column, by one of PostgreSQL's operators, with a value that is
    /// known before rows are read.
    fn take(&mut self, operator: pg_sys::Oid, sides: &[Node<'a>]) -> Option<()> {
        let &[left, right] = sides else { return None };
        let (column, value, operator) = match (column(&left), column(&right)) {
            (Some(column), _) => (column, right, operator),
            (None, Some(column)) => (column, left, commutator(operator)?),
            (None, None) => return None,
        };
        let operator = Operator::builtin(operator)?;
        let is_of = |(kind, _): &(_, _)| operator.left == *kind && operator.right == *kind;
        let kind = BOUNDED.iter().position(is_of)?;
        let number = OPERATORS.iter().position(|known| *known == operator.name)?;
        if !value.is_known() {
            return None;
        }
        self.pairs.push(self.request.smallint(column));
        self.pairs.push(self.request.smallint(number as i16));
        self.values[kind].push(self.request.copy(value));
        Some(())
    }
}

/// The number of a column of the function. A part of a column is no column.
fn column(node: &Node) -> Option<i16> {
    match node.read() {
        PlannerExpression::Column { levels_up: 0, entry: 1, number } if number > 0 => Some(number),
        _ => None,
    }
}
