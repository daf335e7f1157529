/** What a form may hold. Length limits keep a row small enough to list. */
const limits = { patient_name: 120, phone: 30, reason: 2_000 };

/**
 * @param {Record<string, unknown>} input as it came from a form or as JSON
 * @returns {{ value: { patient_name: string, date_of_birth: string, phone: string | null, reason: string } } | { errors: Record<string, string> }}
 */
export function parseIntake(input, today = new Date()) {
  const text = (name) => (typeof input[name] === "string" ? input[name].trim() : "");
  const errors = {};
  const patient_name = text("patient_name");
  const date_of_birth = text("date_of_birth");
  const phone = text("phone");
  const reason = text("reason");

  if (!patient_name) errors.patient_name = "Enter the patient's name.";
  else if (patient_name.length > limits.patient_name) {
    errors.patient_name = `The name is longer than ${limits.patient_name} characters.`;
  }
  const born = parseDate(date_of_birth);
  if (!born) errors.date_of_birth = "Enter the date of birth as YYYY-MM-DD.";
  else if (born > today) errors.date_of_birth = "The date of birth lies in the future.";
  else if (born.getUTCFullYear() < 1900) errors.date_of_birth = "The date of birth lies before 1900.";
  if (phone && !/^[+0-9 ()./-]{5,}$/.test(phone)) errors.phone = "Enter a phone number, such as +1 555 0100.";
  else if (phone.length > limits.phone)
    errors.phone = `The number is longer than ${limits.phone} characters.`;
  if (!reason) errors.reason = "Say why the patient comes.";
  else if (reason.length > limits.reason) {
    errors.reason = `The reason is longer than ${limits.reason} characters.`;
  }

  if (Object.keys(errors).length > 0) return { errors };
  return { value: { patient_name, date_of_birth, phone: phone || null, reason } };
}

/** `null` for text that is no calendar date, such as 2026-02-30. */
function parseDate(text) {
  if (!/^\d{4}-\d{2}-\d{2}$/.test(text)) return null;
  const date = new Date(`${text}T00:00:00Z`);
  return Number.isNaN(date.getTime()) || !date.toISOString().startsWith(text) ? null : date;
}

const columns = "id::text, patient_name, date_of_birth::text, phone, reason, created_at";

/** Stores a form and tells every instance, in one transaction. */
export async function storeIntake(pool, value) {
  const { rows } = await pool.query(
    `with stored as (
       insert into intake_forms (patient_name, date_of_birth, phone, reason)
       values ($1, $2, $3, $4) returning *),
     told as (select pg_notify('intake_forms', id::text) from stored)
     select ${columns} from stored, told`,
    [value.patient_name, value.date_of_birth, value.phone, value.reason],
  );
  return rows[0];
}

/** Newest first, at most `limit` (1 to 200). */
export async function listIntakes(pool, limit = 50) {
  const { rows } = await pool.query(
    `select ${columns} from intake_forms order by intake_forms.id desc limit $1`,
    [limit],
  );
  return rows;
}

export async function findIntake(pool, id) {
  const { rows } = await pool.query(`select ${columns} from intake_forms where intake_forms.id = $1`, [id]);
  return rows[0] ?? null;
}
