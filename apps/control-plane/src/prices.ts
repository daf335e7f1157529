import { z } from "zod";

const rate = z.number().min(0).default(0);

/** What running costs, in cents an hour. All are 0 unless set: then nothing is billed, and costs are 0, not unknown. */
export const Prices = z.strictObject({
  /** Of a sandbox or a database, for each core. */
  vcpu_hour: rate,
  /** Of a sandbox or a database, for each GiB of memory. */
  memory_gib_hour: rate,
  /** Of each instance of a deployment that serves. */
  instance_hour: rate,
});
export type Prices = z.output<typeof Prices>;

export const noPrices: Prices = Prices.parse({});

/** The setting PRICES: JSON, such as {"vcpu_hour": 2, "memory_gib_hour": 1, "instance_hour": 3}. */
export const PricesSetting = z
  .string()
  .default("{}")
  .transform((text, context) => {
    try {
      return Prices.parse(JSON.parse(text));
    } catch (error) {
      const message =
        error instanceof z.ZodError ? z.prettifyError(error) : "it is no JSON object with cents an hour";
      context.addIssue({ code: "custom", message });
      return z.NEVER;
    }
  });

/** Of one sandbox or database that runs, cents an hour. */
export const hourly = (prices: Prices, size: { cpu_count: number; memory_mb: number }): number =>
  size.cpu_count * prices.vcpu_hour + (size.memory_mb / 1024) * prices.memory_gib_hour;

/** Cents of one second of a run, in SQL over a row of `metered`; the numbers are our own settings. */
export const perSecond = ({ vcpu_hour, memory_gib_hour, instance_hour }: Prices): string =>
  `(case when resource_type = 'deployment' then ${instance_hour} else cpu_count * ${vcpu_hour} + memory_mb / 1024.0 * ${memory_gib_hour} end / 3600.0)`;
