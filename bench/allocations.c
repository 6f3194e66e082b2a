/* allocations: how often, and for how many bytes, Python asks for memory.
 *
 * The rule: it counts what Python's own code and every extension ask PyMem_* and PyObject_* for,
 * and changes nothing. Both domains are used with the GIL held, so plain counters will do.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

static PyMemAllocatorEx inner[2];
static unsigned long long calls, bytes;
static int counting;

static void
count(size_t size)
{
    if (counting) {
        calls++;
        bytes += size;
    }
}

static void *
counted_malloc(void *context, size_t size)
{
    PyMemAllocatorEx *to = context;
    count(size);
    return to->malloc(to->ctx, size);
}

static void *
counted_calloc(void *context, size_t items, size_t size)
{
    PyMemAllocatorEx *to = context;
    count(items * size);
    return to->calloc(to->ctx, items, size);
}

static void *
counted_realloc(void *context, void *block, size_t size)
{
    PyMemAllocatorEx *to = context;
    count(size);
    return to->realloc(to->ctx, block, size);
}

static void
passed_free(void *context, void *block)
{
    PyMemAllocatorEx *to = context;
    to->free(to->ctx, block);
}

static PyObject *
resume(PyObject *module, PyObject *none)
{
    counting = 1;
    Py_RETURN_NONE;
}

static PyObject *
pause_(PyObject *module, PyObject *none)
{
    counting = 0;
    Py_RETURN_NONE;
}

static PyObject *
take(PyObject *module, PyObject *none)
{
    unsigned long long taken_calls = calls, taken_bytes = bytes;
    calls = bytes = 0;
    return Py_BuildValue("KK", taken_calls, taken_bytes);
}

static PyMethodDef functions[] = {
    {"resume", resume, METH_NOARGS, "Counts from now on."},
    {"pause", pause_, METH_NOARGS, "Counts no more."},
    {"take", take, METH_NOARGS, "Calls and bytes since this was last asked."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "allocations", NULL, -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC
PyInit_allocations(void)
{
    static const PyMemAllocatorDomain domains[] = {PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};
    for (int i = 0; i < 2; i++) {
        PyMem_GetAllocator(domains[i], &inner[i]);
        PyMemAllocatorEx outer = {
            &inner[i], counted_malloc, counted_calloc, counted_realloc, passed_free,
        };
        PyMem_SetAllocator(domains[i], &outer);
    }
    return PyModule_Create(&definition);
}
