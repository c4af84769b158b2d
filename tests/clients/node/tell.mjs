// What each client program tells the tests: a line of JSON per case.

export async function tell(cases, say = (line) => console.log(JSON.stringify(line))) {
  for (const [name, run] of Object.entries(cases)) {
    try {
      say({ case: name, ...(await run()) });
    } catch (error) {
      say({ case: name, error: { status: error.status ?? error.statusCode ?? null, message: error.message } });
    }
  }
}
