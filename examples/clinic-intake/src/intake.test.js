import assert from "node:assert/strict";
import { test } from "node:test";
import { parseIntake } from "./intake.js";
import { formPage, listPage } from "./pages.js";

const valid = { patient_name: " Ada Lovelace ", date_of_birth: "1990-12-10", phone: "", reason: "Check-up" };

test("a valid form is trimmed and an empty phone becomes null", () => {
  assert.deepEqual(parseIntake(valid), {
    value: { patient_name: "Ada Lovelace", date_of_birth: "1990-12-10", phone: null, reason: "Check-up" },
  });
});

test("each wrong field has its own message", () => {
  const { errors } = parseIntake({ patient_name: "", date_of_birth: "2026-02-30", phone: "x", reason: "" });
  assert.deepEqual(Object.keys(errors).sort(), ["date_of_birth", "patient_name", "phone", "reason"]);
});

test("a birth in the future is refused", () => {
  const { errors } = parseIntake({ ...valid, date_of_birth: "2030-01-01" }, new Date("2026-01-01"));
  assert.match(errors.date_of_birth, /future/);
});

test("what a patient types never becomes markup", () => {
  const evil = { ...valid, id: "1", patient_name: "<script>alert(1)</script>", created_at: new Date() };
  assert.doesNotMatch(listPage([evil], "1.0.0"), /<script>alert/);
  assert.doesNotMatch(formPage({ version: "1.0.0", values: evil, errors: {} }), /<script>alert/);
});
