"""Faults for the sources of the op `linked_linear`."""

# ruff: noqa: E501
from faults import AFTER, BEFORE, BLOCKS, DIVERGENT, OTHER, PAST, SIGN, STALE, Fault

COLUMN = {"case": "column, T 5, momentum"}  # padded rows and columns, two heads, groups of one and of two tokens
POWERED = {"case": "powered of q 4, T 5"}
SINH = {"case": "sinh, T 4"}

PLANTED = (
    Fault(AFTER, "            __syncthreads();\n            form(w, stored + g", "            form(w, stored + g", **COLUMN),
    Fault(AFTER, "w.a[v * ld_k + k] = value;\n                         });\n    __syncthreads();", "w.a[v * ld_k + k] = value;\n                         });", name="evidence", **COLUMN),
    Fault(DIVERGENT, "            along = block_sum(along, w.scratch);\n", "            if (threadIdx.x < 128) along = block_sum(along, w.scratch);\n", **COLUMN),
    Fault(PAST, "HECATE_CARVE(arena, float, w##_by_column, K);", "HECATE_CARVE(arena, float, w##_by_column, 1);", **COLUMN),
    Fault(SIGN, "w.dy[v] - w.by_column[k] / level", "w.dy[v] + w.by_column[k] / level", **COLUMN),
    Fault(STALE, "const bool more = t >= groups;", "const bool more = t > 0;", **COLUMN),
    Fault(BLOCKS, "part = item;", "part = g;", **COLUMN),
    Fault(OTHER, "share_out(w.a + k, ld_k, HEAD_V, level)", "share_out(w.a + k, ld_k, V, level)", name="padded rows share the mass", **COLUMN),
    Fault(BEFORE, "d_reach[token * count + i] = sum;\n            }\n            __syncthreads();", "d_reach[token * count + i] = sum;\n            }", name="the next token", **POWERED),
    Fault(OTHER, "+ along;\n    });", ";\n    });", name="forgotten norm", **POWERED),
    Fault(OTHER, "total = block_sum(total, w.scratch);", "total = 2.0f * warp_sum(total);", name="norm of half a block", **POWERED),
    Fault(SIGN, "return level * coshf(a);", "return level * sinhf(a);", name="the slope of another link", **SINH),
)  # fmt: skip
