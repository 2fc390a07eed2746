//! What the planner asks of a support function: by which condition of an index a call of its
//! function can be looked up.

use crate::call::Call;
use pgrx::pg_sys::{self, Datum, FuncExpr, IndexOptInfo, List, Node, NodeTag, Oid};
use pgrx::pg_sys::{ScalarArrayOpExpr, SupportRequestIndexCondition};
use std::marker::PhantomData;
use std::ptr::{NonNull, null_mut};

/// A request about a call of a function, of which the index's column is an argument.
pub struct IndexCondition<'a> {
    request: NonNull<SupportRequestIndexCondition>,
    _call: PhantomData<&'a Call>,
}

impl<'a> IndexCondition<'a> {
    /// The request that a support function is called with, if it is one of these.
    pub fn of(call: &'a Call) -> Option<IndexCondition<'a>> {
        if !takes(function(call)?, &[pg_sys::INTERNALOID]) {
            return None;
        }
        let node = NonNull::new(call.datum(0)?.cast_mut_ptr::<Node>())?;
        // SAFETY: SQL can pass no value of this type. PostgreSQL passes a node, which is of this
        // structure where its tag says so, and lives as long as the call.
        unsafe {
            if node.as_ref().type_ != NodeTag::T_SupportRequestIndexCondition {
                return None;
            }
            let request = node.cast::<SupportRequestIndexCondition>();
            let is_function = (*request.as_ref().node).type_ == NodeTag::T_FuncExpr;
            is_function.then_some(IndexCondition { request, _call: PhantomData })
        }
    }

    fn request(&self) -> &SupportRequestIndexCondition {
        // SAFETY: it lives as long as the call, and is changed only by `any`.
        unsafe { self.request.as_ref() }
    }

    fn index(&self) -> &IndexOptInfo {
        // SAFETY: the index is described as long as the query is planned.
        unsafe { &*self.request().index }
    }

    /// The number of the function's argument that is the index's column, from 0 on.
    pub fn argument(&self) -> i32 {
        self.request().indexarg
    }

    /// Whether the column is the first one of a B-tree.
    pub fn is_leading_in_btree(&self) -> bool {
        self.index().relam == pg_sys::BTREE_AM_OID && self.request().indexcol == 0
    }

    /// Whether the column is sorted by operators of PostgreSQL's own.
    pub fn has_builtin_operators(&self) -> bool {
        self.request().opfamily.to_u32() < pg_sys::FirstNormalObjectId
    }

    /// Answers by `column = ANY (function(value))`, if the value, another argument, is known
    /// before the index is read, and there is a function that makes such an array of it.
    pub fn any(mut self, value: i32, function: impl FnOnce(Oid) -> Oid) -> Option<Datum> {
        // SAFETY: the call's arguments are shared with the condition, as planner expressions
        // are where none is changed. All types are compared before nodes are made of them.
        unsafe {
            let request = self.request.as_mut();
            let arguments = (*request.node.cast::<FuncExpr>()).args;
            let value = nth(arguments, value)?;
            let column = nth(arguments, request.indexarg)?;
            let relids = pg_sys::pull_varnos(request.root, value);
            let depends = pg_sys::bms_is_member((*(*request.index).rel).relid as i32, relids);
            if depends || pg_sys::contain_volatile_functions(value) {
                return None;
            }
            let kind = pg_sys::exprType(column);
            let array = pg_sys::get_array_type(kind);
            let equality = pg_sys::get_opfamily_member(
                request.opfamily,
                kind,
                kind,
                pg_sys::BTEqualStrategyNumber as i16,
            );
            let function = function(kind);
            let fits = pg_sys::exprType(value) == kind
                && function != Oid::INVALID
                && takes(function, &[kind])
                && pg_sys::get_func_rettype(function) == array;
            if equality == Oid::INVALID || array == Oid::INVALID || !fits {
                return None;
            }
            let elements = pg_sys::makeFuncExpr(
                function,
                array,
                single(value),
                Oid::INVALID,
                pg_sys::exprCollation(value),
                pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
            );
            let any: *mut ScalarArrayOpExpr =
                pg_sys::palloc0(size_of::<ScalarArrayOpExpr>()).cast();
            (*any).xpr.type_ = NodeTag::T_ScalarArrayOpExpr;
            (*any).opno = equality;
            (*any).opfuncid = pg_sys::get_opcode(equality);
            (*any).useOr = true;
            (*any).inputcollid = request.indexcollation;
            (*any).args = pg_sys::lappend(single(column), elements.cast());
            (*any).location = -1;
            // Equal is the same, byte by byte, but where a collation says otherwise.
            request.lossy = request.indexcollation != Oid::INVALID
                && !pg_sys::get_collation_isdeterministic(request.indexcollation);
            Some(Datum::from(single(any.cast())))
        }
    }
}

/// The function that is being called.
fn function(call: &Call) -> Option<Oid> {
    // SAFETY: PostgreSQL calls a function with a record that names it, or with none.
    unsafe { (*call.frame()).flinfo.as_ref() }.map(|function| function.fn_oid)
}

/// Whether a function is declared with arguments of these types.
fn takes(function: Oid, kinds: &[Oid]) -> bool {
    let (mut arguments, mut count) = (null_mut(), 0);
    // SAFETY: an error if there is no such function. It has as many arguments as is said.
    unsafe {
        pg_sys::get_func_signature(function, &mut arguments, &mut count);
        let count = usize::try_from(count).unwrap_or_default();
        count == kinds.len() && (0..count).all(|n| *arguments.add(n) == kinds[n])
    }
}

/// # Safety
/// The list must be one of nodes, or null.
unsafe fn nth(list: *mut List, n: i32) -> Option<*mut Node> {
    // SAFETY: as the caller promises; the number is compared with the length.
    unsafe {
        let has = !list.is_null() && n >= 0 && (*list).length > n;
        has.then(|| (*(*list).elements.add(n as usize)).ptr_value.cast())
    }
}

/// # Safety
/// For nodes.
unsafe fn single(node: *mut Node) -> *mut List {
    // SAFETY: a new list.
    unsafe { pg_sys::lappend(null_mut(), node.cast()) }
}
