//! Has the planner look up `matches(value, column)` in an index of the column.

use pg::call::{Call, sql_functions};
use pg::error::Result;
use pg::user_table::ours;
use pgrx::pg_sys::{self, Datum, FuncExpr, Node, NodeTag, Oid, SupportRequestIndexCondition};

sql_functions! {
    keysmith_matches_support => matches_support;
}

fn matches_support(call: &Call) -> Result<Option<Datum>> {
    // SAFETY: PostgreSQL calls support functions with a request, a node; this one is
    // answered where its tag is that of the struct.
    let condition = unsafe {
        let node = call.datum(0).map(|datum| datum.cast_mut_ptr::<Node>());
        node.filter(|node| (**node).type_ == NodeTag::T_SupportRequestIndexCondition)
            .and_then(|node| condition(&mut *node.cast::<SupportRequestIndexCondition>()))
    };
    // Not an SQL null: no answer.
    Ok(Some(condition.unwrap_or(Datum::null())))
}

/// `column = ANY (digests(value))`, in a list.
///
/// # Safety
/// The request must be PostgreSQL's.
unsafe fn condition(request: &mut SupportRequestIndexCondition) -> Option<Datum> {
    // SAFETY: the request is about a call of `matches`, whose two arguments, of one type,
    // are shared with the condition, as planner expressions are where none is changed.
    // The index is described as long as the query is planned.
    unsafe {
        if request.indexarg != 1 || (*request.node).type_ != NodeTag::T_FuncExpr {
            return None;
        }
        // Behind other columns, a list of values makes the index's order another than the
        // planner takes it for: `column = ANY` in a query has its own care for that.
        let index = &*request.index;
        // Equality of PostgreSQL's own is that of bytes.
        let is_own = request.opfamily.to_u32() < pg_sys::FirstNormalObjectId;
        if index.relam != pg_sys::BTREE_AM_OID || request.indexcol != 0 || !is_own {
            return None;
        }
        let function = &*request.node.cast::<FuncExpr>();
        let value: *mut Node = nth(function.args, 0)?;
        let column: *mut Node = nth(function.args, 1)?;
        // What stands for the value must be known before the index is read.
        let relids = pg_sys::pull_varnos(request.root, value);
        let depends = pg_sys::bms_is_member((*index.rel).relid as i32, relids);
        if depends || pg_sys::contain_volatile_functions(value) {
            return None;
        }
        let kind = pg_sys::exprType(column);
        let equality = pg_sys::get_opfamily_member(
            request.opfamily,
            kind,
            kind,
            pg_sys::BTEqualStrategyNumber as i16,
        );
        if equality == Oid::INVALID {
            return None;
        }
        let array = pg_sys::get_array_type(kind);
        let digests = pg_sys::makeFuncExpr(
            digests_of(kind)?,
            array,
            single(value),
            Oid::INVALID,
            pg_sys::exprCollation(value),
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        );
        let any: *mut pg_sys::ScalarArrayOpExpr =
            pg_sys::palloc0(size_of::<pg_sys::ScalarArrayOpExpr>()).cast();
        (*any).xpr.type_ = NodeTag::T_ScalarArrayOpExpr;
        (*any).opno = equality;
        (*any).opfuncid = pg_sys::get_opcode(equality);
        (*any).useOr = true;
        (*any).inputcollid = request.indexcollation;
        (*any).args = pg_sys::lappend(single(column), digests.cast());
        (*any).location = -1;
        // Equal is the same, byte by byte, but where a collation says otherwise.
        request.lossy = request.indexcollation != Oid::INVALID
            && !pg_sys::get_collation_isdeterministic(request.indexcollation);
        Some(Datum::from(single(any.cast())))
    }
}

/// # Safety
/// The list must be one of nodes.
unsafe fn nth(list: *mut pg_sys::List, n: i32) -> Option<*mut Node> {
    // SAFETY: as the caller promises; the number is compared with the length.
    unsafe {
        let has = !list.is_null() && (*list).length > n;
        has.then(|| (*(*list).elements.add(n as usize)).ptr_value.cast())
    }
}

/// # Safety
/// For nodes.
unsafe fn single(node: *mut Node) -> *mut pg_sys::List {
    // SAFETY: a new list.
    unsafe { pg_sys::lappend(std::ptr::null_mut(), node.cast()) }
}

/// Our function `digests` for values of a type.
fn digests_of(kind: Oid) -> Option<Oid> {
    let found = ours(c"digests", &[kind]);
    (found != Oid::INVALID).then_some(found)
}
