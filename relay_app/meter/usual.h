/* What relay_app.meter.usual asks of an event, read without making objects of the rest. */

#ifndef RELAY_USUAL_H
#define RELAY_USUAL_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

PyObject *read_usual(PyObject *module, PyObject *payload);

#endif
